"""When a training is measured, what came of it, and when more of the same would be in vain.

Measuring takes time from learning, so its share of the time is bounded: the next one is due when it, and another one at the
end, would keep within that share, going by what the last one took. It knows nothing of what is measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from models.config import TrainingConfig
from models.errors import ModelsError, Stopped
from models.generator import Generator

LEADING = "fd_domain"  # the score by which checkpoints are compared; lower is better

#: Scores by name; raises Stopped where it was asked to end.
Scorer = Callable[[Generator], Mapping[str, float]]

log = logging.getLogger(__name__)


class Appraisals:
    """The measurements of one attempt at a training.

    Args:
        measure: takes one; None: none are taken.
        config: evaluation_share, evaluation_interval_s and patience are read.
    """

    def __init__(self, measure: Scorer | None, config: TrainingConfig) -> None:
        self._measure = measure if config.evaluation_share > 0 else None
        self._config = config
        self._began_at = self._last_at = time.monotonic()
        self._spent_s = 0.0
        self._cost_s: float | None = None  # of the last one
        self._best: float | None = None
        self._since_best = 0  # measurements without a better one

    def due(self, *, ending: bool = False) -> bool:
        """Whether it is time for one; `ending`: there will be none after it."""
        if self._measure is None:
            return False
        now = time.monotonic()
        if self._cost_s is None:
            return now - self._began_at >= self._config.evaluation_interval_s
        if not ending and now - self._last_at < self._config.evaluation_interval_s:
            return False
        reserved_s = self._cost_s * (1 if ending else 2)
        return self._spent_s + reserved_s <= self._config.evaluation_share * (now - self._began_at)

    def take(self, generator: Generator) -> dict[str, float] | None:
        """The scores of a generator; None where it was stopped, or cannot be measured, which ends no training."""
        assert self._measure is not None
        started = time.monotonic()
        try:
            scores = dict(self._measure(generator))
        except Stopped:
            return None
        except (ModelsError, RuntimeError) as error:  # of these PyTorch's: no memory left, no eigenvalues
            log.warning("the model could not be measured after %d images: %s", generator.images_seen, error)
            return None
        finally:
            self._last_at = time.monotonic()
            self._cost_s = self._last_at - started
            self._spent_s += self._cost_s
        self._compare(scores.get(LEADING))
        return scores

    @property
    def in_vain(self) -> bool:
        """Whether the last `patience` measurements were no better than one before them."""
        return self._config.patience is not None and self._since_best >= self._config.patience

    def _compare(self, score: float | None) -> None:
        if score is None:
            return
        if self._best is None or score < self._best:
            self._best, self._since_best = score, 0
        else:
            self._since_best += 1
