"""Working ahead: a picture that is asked for alone is made while its job is being committed.

What is announced is a guess: a sampler uses what it made of it only for a job that it has claimed and that wants just that
(docs/decisions/0028-working-ahead.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from store.slices import Slice


@dataclass(frozen=True)
class Ahead:
    """What a job for one picture will be claimed with."""

    model_id: str
    checkpoint: str
    request: Mapping[str, Any]

    @classmethod
    def read(cls, announced: str) -> Ahead:
        """Return what `text` has written; raises ValueError where something else has."""
        try:
            return cls(**json.loads(announced))
        except (TypeError, ValueError) as error:
            raise ValueError(f"nothing that was announced says {announced[:200]!r}") from error

    @property
    def text(self) -> str:
        """As it is announced."""
        return json.dumps(asdict(self))

    def is_of(self, part: Slice) -> bool:
        """Whether a slice is this one picture."""
        claim = part.claim
        return (
            (part.count, part.total, claim.attempt) == (1, 1, 1)
            and (claim.model_id, claim.checkpoint) == (self.model_id, self.checkpoint)
            and claim.request == self.request
        )
