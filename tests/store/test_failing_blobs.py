"""Blobs that fail when they are told to: at the chosen call, by the real errors' names, leaving nothing half written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from store.blobs import LocalBlobs
from store.errors import BlobsUnavailable, StorageFull
from store.failing_blobs import FailingBlobs


@pytest.fixture
def failing(tmp_path: Path) -> FailingBlobs:
    return FailingBlobs(LocalBlobs(tmp_path))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EROFS, BlobsUnavailable), (errno.EIO, BlobsUnavailable)],
)  # fmt: skip
def test_the_chosen_writes_fail_and_leave_what_was_there(
    failing: FailingBlobs, number: int, expected: type[Exception]
) -> None:
    failing.put("a", b"before")
    failing.fail(number, after=1, times=2)

    failing.put("b", b"goes well")
    for _ in range(2):
        with pytest.raises(expected):
            failing.put("a", b"after")

    assert failing.failures_left == 0
    assert failing.get("a") == b"before"
    failing.put("a", b"after")
    assert failing.get("a") == b"after"


def test_many_may_fail_half_way(failing: FailingBlobs) -> None:
    failing.fail(errno.ENOSPC, after=1)

    with pytest.raises(StorageFull):
        failing.put_many({"a": b"1", "b": b"2", "c": b"3"})

    assert [key for key in "abc" if failing.exists(key)] == ["a"]
