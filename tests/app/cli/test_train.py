"""Budgets and options as they are written on a command line."""

from __future__ import annotations

import pytest
import typer

from app.cli.train import budget_of, parse_option


def test_a_budget_is_images_or_a_time_and_ten_minutes_when_nothing_is_said() -> None:
    assert budget_of(5000, None, None) == {"images": 5000}
    assert budget_of(None, 90, None) == {"seconds": 90}
    assert budget_of(None, None, 2.5) == {"seconds": 150}
    assert budget_of(None, None, None) == {"seconds": 600}


def test_two_budgets_at_once_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="one of --images, --seconds and --minutes"):
        budget_of(5000, None, 2)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("base_channels=32", "base_channels", 32),
        ("learning_rate=2e-4", "learning_rate", 2e-4),
        ("conditional=false", "conditional", False),
        ("conditional=null", "conditional", None),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_an_option_s_value_becomes_what_it_looks_like(text: str, key: str, value: object) -> None:
    parsed = parse_option(text)
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["base_channels", "=32"])
def test_an_option_without_a_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
        parse_option(text)
