"""Watches one training: remembers what it said, names its troubles, and knows which of its checkpoints were free of them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from models.config import TrainingConfig
from models.trouble import MOST_MOMENTS, OF_SCORES, Finding, Moment, Trouble, overfitted

#: Troubles that the scores of a checkpoint show: a checkpoint that was not measured may have them too.
SEEN_IN_SCORES = frozenset(Trouble) - {Trouble.NOT_FINITE, Trouble.DISCRIMINATOR_OVERFITTING}

log = logging.getLogger(__name__)


class Watch:
    """The past of one call of train(), as far as it tells troubles.

    Args:
        config: what is trained.
        pictures: that it learns from.
    """

    def __init__(self, config: TrainingConfig, pictures: int) -> None:
        self._pictures = pictures
        self._absolute = getattr(config.options, "loss", None) in ("bce", "hinge")
        self._measured: list[Moment] = []
        self._watched: deque[Moment] = deque(maxlen=MOST_MOMENTS)
        self._of_scores: tuple[Finding, ...] = ()  # of the last measurement
        self.findings: tuple[Finding, ...] = ()  # as of now
        self.sound: Path | None = None  # the newest checkpoint that was written without a finding
        self.proven: Path | None = (
            None  # the newest measured one with nothing to suspect, or what an attempt began with
        )

    def begin(self, checkpoint: Path | None, images_seen: int) -> None:
        """Take a checkpoint for a good one, and forget what came after it: an attempt begins here.

        Args:
            checkpoint: what the attempt goes on from; None: it begins at the beginning.
            images_seen: of that checkpoint.
        """
        self.sound = self.proven = checkpoint
        self._measured = [moment for moment in self._measured if moment.images_seen <= images_seen]
        self._watched.clear()  # other options give other gauges
        self._of_scores = self.findings = ()

    def look(
        self,
        images_seen: int,
        fraction: float,
        gauges: Mapping[str, float],
        scores: Mapping[str, float] | None,
        checkpoint: Path | None,
    ) -> tuple[Finding, ...]:
        """Name the troubles of a moment; those that are new are logged.

        Args:
            images_seen: of the moment.
            fraction: of the budget, 0 to 1.
            gauges: of the moment.
            scores: of the moment; None: nothing was measured.
            checkpoint: that was just written, which the scores are of; None: none was.
        """
        self._watched.append(Moment(images_seen, fraction, gauges))
        if scores is not None:
            self._measured.append(Moment(images_seen, fraction, scores))
            found = (detector(self._measured) for detector in OF_SCORES)
            self._of_scores = tuple(finding for finding in found if finding is not None)
        of_gauges = overfitted(self._watched, pictures=self._pictures, absolute=self._absolute)
        known = {finding.name for finding in self.findings}
        self.findings = (*self._of_scores, *([of_gauges] if of_gauges is not None else []))
        for finding in self.findings:
            if finding.name not in known:
                log.warning("%s after %s images: %s", finding.name.value, f"{images_seen:,}", finding.says)
        if checkpoint is not None and not self.certain:
            self.sound = checkpoint
            if scores is not None and not any(detector(self._measured, confirmed=1) for detector in OF_SCORES):
                self.proven = checkpoint
        return self.findings

    @property
    def certain(self) -> tuple[Finding, ...]:
        """The findings that something may be done about."""
        return tuple(finding for finding in self.findings if finding.certain)

    def refuge(self, finding: Finding) -> Path | None:
        """The checkpoint to go back to; None: there is none but the beginning."""
        return self.proven if finding.name in SEEN_IN_SCORES else self.sound
