"""What is announced of a job, held against the slice that is claimed of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store.ahead import Ahead
from store.jobs import Claim
from store.records import JobKind
from store.slices import Slice

AHEAD = Ahead("mdl_a", "models/mdl_a/1", {"n": 1, "seed": 7, "label": None, "truncation": 0.7})
CLAIM = Claim("job_a", JobKind.SAMPLE, "w", 1, 1, AHEAD.request, 0, None, AHEAD.model_id, AHEAD.checkpoint)


def test_what_was_announced_can_be_read() -> None:
    assert Ahead.read(AHEAD.text) == AHEAD


@pytest.mark.parametrize("text", ["", "{", "7", "{}", '{"model_id": "a"}', '{"a": 1}', "null", "[1, 2, 3]"])
def test_what_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="announce"):
        Ahead.read(text)


@pytest.mark.parametrize(
    ("part", "is_it"),
    [
        (Slice(CLAIM, 0, 1, 1), True),
        (Slice(CLAIM, 0, 1, 2), False),
        (Slice(replace(CLAIM, attempt=2), 0, 1, 1), False),
        (Slice(CLAIM, 0, 2, 2), False),
        (Slice(replace(CLAIM, model_id="mdl_b"), 0, 1, 1), False),
        (Slice(replace(CLAIM, checkpoint="models/mdl_a/2"), 0, 1, 1), False),
        (Slice(replace(CLAIM, request={**AHEAD.request, "seed": 8}), 0, 1, 1), False),
        (Slice(replace(CLAIM, request={"n": 1, "seed": 7, "label": None}), 0, 1, 1), False),
    ],
)
def test_only_the_very_picture_that_was_announced_is_it(part: Slice, is_it: bool) -> None:
    assert AHEAD.is_of(part) is is_it
