"""Scratch directories: local files of one claim, gone when its work ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.jobs import Claim
from store.settings import Settings


@contextmanager
def scratch(settings: Settings, claim: Claim) -> Iterator[Path]:
    """Yield an empty directory of this claim, and clear away what earlier, killed attempts at the job left on this disk."""
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    for old in settings.scratch_dir.glob(f"{claim.job_id}-*"):
        if int(old.name.rpartition("-")[2]) < claim.fence:  # a later claim's files are not ours to touch
            shutil.rmtree(old, ignore_errors=True)
    directory = settings.scratch_dir / f"{claim.job_id}-{claim.fence}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
