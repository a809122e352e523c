"""Strips of an evaluation: where their picture lies, which no row remembers."""

from __future__ import annotations


def strips_key(model_id: str, job_id: str) -> str:
    """Return where an evaluation's strips lie: with the model, so that they go when it goes."""
    return f"models/{model_id}/strips/{job_id}.png"
