"""Counters that all API processes share."""

from __future__ import annotations

from limits.storage import RedisStorage, Storage

from store.events import connect


def open_counters(redis_url: str) -> Storage:
    """Return counters in Redis, which connect when they are first used.

    They raise `limits.errors.StorageError` when Redis is away.
    """
    pool = connect(redis_url).connection_pool
    return RedisStorage(redis_url, connection_pool=pool, key_prefix="darkroom:rates", wrap_exceptions=True)
