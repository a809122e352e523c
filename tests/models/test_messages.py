"""What is told in JSON is what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import (
    BadCheckpoint,
    InvalidOption,
    ModelsError,
    ResolutionTooHigh,
    Stopped,
    TrainingDiverged,
    UnknownKind,
)
from models.messages import Message, error_from, from_line, outcome_from, tick_from, to_line, told
from models.trainer import Outcome, Tick


def _through(message: Message) -> Message:
    line = to_line(message)
    assert line.count(b"\n") == 1
    return from_line(line)


def test_ticks_and_outcomes_come_through_whole() -> None:
    tick = Tick(64, 0.5, 12.5, None, 3.0, {"G": 0.1}, {"R_t": -1.0}, {"fd_domain": 2.0}, Path("/run/ckpt"), None)
    assert tick_from(_through(told(tick))) == tick
    outcome = Outcome(True, 64, 3.0, {"G": 0.1}, Path("/run/ckpt"), Path("/run/preview.png"))
    assert outcome_from(_through(told(outcome))) == outcome


@pytest.mark.parametrize(
    "error",
    [
        TrainingDiverged({"G": float("inf")}, 64),
        InvalidOption("batch_size", "got 3", "a multiple of 2"),
        ResolutionTooHigh(64, 32),
        UnknownKind("gan", ["gan-dcgan"]),
        BadCheckpoint("it is torn"),
        Stopped(),
    ],
)
def test_our_errors_come_through_as_they_were(error: ModelsError) -> None:
    found = error_from(_through(told(error)))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.__dict__.keys() == error.__dict__.keys()


def test_a_foreign_error_comes_through_by_name() -> None:
    found = error_from(_through(told(ZeroDivisionError("by nothing"))))
    assert type(found) is RuntimeError
    assert str(found) == "ZeroDivisionError: by nothing"


def test_a_foreign_error_that_is_called_like_a_module_of_ours_is_foreign() -> None:
    assert type(error_from({"name": "annotations", "message": "odd", "fields": {}})) is RuntimeError
