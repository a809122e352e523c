from __future__ import annotations

from pathlib import Path

import pytest

from store.errors import BlobNotFound
from store.records import Model
from tests.worker.conftest import Desk
from worker.generator_cache import GeneratorCache


def cache_of(desk: Desk, tmp_path: Path, max_bytes: int) -> GeneratorCache:
    return GeneratorCache(
        desk.resources.blobs, device="cpu", max_bytes=max_bytes, max_batch=8, copies=tmp_path / "copies"
    )


def checkpoint(desk: Desk, name: str) -> str:
    with desk.resources.database.snapshot() as session:
        found = session.get_one(Model, desk.model(name)).checkpoint
    return found or ""


def test_a_generator_is_loaded_once(desk: Desk, tmp_path: Path) -> None:
    cache = cache_of(desk, tmp_path, max_bytes=10**9)
    prefix = checkpoint(desk, "mdl_a")
    assert cache.get(prefix) is cache.get(prefix)


def test_the_least_recently_used_goes_when_bytes_run_out(desk: Desk, tmp_path: Path) -> None:
    prefixes = [checkpoint(desk, f"mdl_{name}") for name in "abc"]
    one = cache_of(desk, tmp_path, 10**9).get(prefixes[0]).generator.size_bytes
    cache = cache_of(desk, tmp_path, max_bytes=2 * one)
    first, second = cache.get(prefixes[0]), cache.get(prefixes[1])
    cache.get(prefixes[0])
    cache.get(prefixes[2])
    assert cache.size_bytes == 2 * one
    assert cache.get(prefixes[0]) is first
    assert cache.get(prefixes[1]) is not second


def test_a_generator_larger_than_the_cache_still_serves(desk: Desk, tmp_path: Path) -> None:
    cache = cache_of(desk, tmp_path, max_bytes=0)
    prefix = checkpoint(desk, "mdl_a")
    assert cache.get(prefix) is cache.get(prefix)


def test_missing_weights_are_an_error_that_names_them(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(BlobNotFound, match="models/mdl_gone"):
        cache_of(desk, tmp_path, 0).get("models/mdl_gone/1")
