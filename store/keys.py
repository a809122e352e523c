"""Keys of blobs that one part writes and another reads, where no row remembers them."""

from __future__ import annotations


def strips_key(model_id: str, job_id: str) -> str:
    """Return where an evaluation's strips lie: with the model, so that they go when it goes."""
    return f"models/{model_id}/strips/{job_id}.png"
