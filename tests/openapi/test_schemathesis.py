"""Schemathesis examines the whole API on real services: no 5xx, and every answer as the OpenAPI document says.

A short examination is among the quick tests; the whole ones are slow. Larger, or with other random choices:

    python -m pytest tests/openapi -m slow --examination-seed=$RANDOM --examination-examples=200
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest

from models import catalog
from store.events import RedisBus
from tests.app.conftest import running
from tests.openapi.examination import Outcome, examine
from tests.openapi.hands import busy
from tests.openapi.stock import fill

LEAST_CASES = 2_000
SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"  # webhooks are asked for, and never sent


def examination(directory: Path, redis_url: str, *, database_url: str = "", **options: str) -> Outcome:
    """What an examination of a busy service finds, its store filled with everything there can be."""
    (directory / "examination").mkdir()
    with running(
        directory,
        bus=RedisBus(redis_url),
        database_url=database_url,
        max_wait_s=0.2,  # whoever waits need not wait long
        max_images_per_request=64,
        webhook_secret=SECRET,
    ) as service:
        (directory / "imports" / "pets").mkdir()
        stock = fill(service.resources)
        with busy(service.resources):
            outcome = examine(service.http, stock, directory / "examination", **options)
        # What it asked with and for is still there: it did not examine an empty store.
        assert service.http.get(f"/v1/models/{stock.models[0]}").status_code == 200
        return outcome


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> dict[str, str]:
    """Options of a whole examination, as the command line changes them."""
    return {
        "seed": request.config.getoption("--examination-seed"),
        "max_examples": request.config.getoption("--examination-examples"),
    }


def assert_clean(outcome: Outcome) -> None:
    """Shows the count of cases, and what was found."""
    sys.stdout.write(f"{outcome.cases} cases, {outcome.operations} operations\n")
    assert not outcome.failures, outcome.transcript
    assert outcome.operations == outcome.known_operations


@pytest.mark.slow
def test_a_short_examination_finds_nothing(tmp_path: Path, redis_url: str) -> None:
    options = {"seed": "1", "max_examples": "4", "phases": "examples,fuzzing,stateful"}
    outcome = examination(tmp_path, redis_url, **options)
    assert_clean(outcome)
    assert outcome.cases > 100


@pytest.mark.slow
def test_a_whole_examination_finds_nothing(tmp_path: Path, redis_url: str, whole: dict[str, str]) -> None:
    outcome = examination(tmp_path, redis_url, **whole)
    assert_clean(outcome)
    assert outcome.cases >= LEAST_CASES


@pytest.mark.slow
def test_an_examination_on_postgres_finds_nothing(
    tmp_path: Path, redis_url: str, postgres_url: str, whole: dict[str, str]
) -> None:
    options = {"phases": "fuzzing,stateful", **whole}
    assert_clean(examination(tmp_path, redis_url, database_url=postgres_url, **options))


@pytest.mark.slow
def test_an_examination_finds_a_defect(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(catalog, "describe", broken)
    options = {"seed": "1", "max_examples": "1", "phases": "fuzzing", "include_operation_id": "list_kinds"}
    assert examination(tmp_path, redis_url, **options).failures == ["Server error: GET /v1/kinds"]
