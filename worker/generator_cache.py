"""Loaded generators, kept while there is room: the least recently used goes first."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

from models.errors import OutOfMemory
from models.generator import Generator
from models.lanes import Lanes
from models.memory import is_out_of_memory, release_memory
from models.prepared import prepared
from models.sampling import Sampler
from models.winograd import compile_ahead
from store.blobs import Blobs

log = logging.getLogger(__name__)

#: Of batches, a seventh apart or less up to 64: what pads one costs a CPU as much as what somebody wants.
SIZES = (*range(1, 8), *range(8, 16, 2), *range(16, 32, 4), *range(32, 64, 8), 64, 128, 256, 512)


class GeneratorCache:
    """Samplers by the blob prefix of their weights; weights under a prefix never change."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        device: str,
        max_bytes: int,
        max_batch: int,
        copies: Path,
        rewrite: bool = True,
        threads: int = 1,
    ) -> None:
        """Loads nothing yet.

        Args:
            blobs: where weights come from.
            device: where generators live.
            max_bytes: room for weights and what they are computed in; one generator is always kept, however large.
            max_batch: most images in one forward pass.
            copies: directory for local copies, where the storage is not local.
            rewrite: whether generators are rewritten to cost less (`models.prepared`).
            threads: of the CPU, among which a batch is shared out (`models.lanes`).
        """
        self._blobs = blobs
        self._device = device
        self._max_bytes = max_bytes
        self._max_batch = max_batch
        self._copies = copies
        self._rewrite = rewrite
        self._lanes = Lanes(threads if device == "cpu" else 1)
        self._loaded: OrderedDict[str, Sampler] = OrderedDict()

    def warm(self) -> None:
        """Does what would else keep the first picture waiting, whatever its generator is."""
        if self._rewrite and self._device == "cpu":
            compile_ahead()

    def get(self, checkpoint: str) -> Sampler:
        """Return the sampler of these weights, loading them at need.

        Raises:
            BlobNotFound: the model was deleted.
            BadCheckpoint: the weights are damaged.
            OutOfMemory: the device has no room for it, even alone.
        """
        if checkpoint not in self._loaded:
            self._loaded[checkpoint] = self._load(checkpoint)
        self._loaded.move_to_end(checkpoint)
        while len(self._loaded) > 1 and self.size_bytes > self._max_bytes:
            dropped, _ = self._loaded.popitem(last=False)
            log.info("dropped %s", dropped)
        return self._loaded[checkpoint]

    def __contains__(self, checkpoint: str) -> bool:
        return checkpoint in self._loaded

    def _load(self, checkpoint: str) -> Sampler:
        copy = self._blobs.fetch(checkpoint, self._copies)
        sampler = self._tried(copy)
        if sampler is None:
            log.warning("%s ran out of memory; only %s stays loaded", self._device, checkpoint)
            self._loaded.clear()
            release_memory(self._device)
            sampler = self._tried(copy)
        if sampler is None:
            raise OutOfMemory(f"{self._device} has no room for the weights of {checkpoint}; free it of other work")
        log.info("loaded %s (%.1f MB)", checkpoint, sampler.generator.size_bytes / 1e6)
        return sampler

    def _tried(self, copy: Path) -> Sampler | None:
        """The sampler of the weights that lie there; None where memory ran out."""
        try:
            plain = Generator.load(copy, self._device)
            generator = prepared(plain) if self._rewrite else plain
            # Its probe runs, and so warms, every size.
            return Sampler(generator, buckets=_buckets(self._max_batch), lanes=self._lanes)
        except OutOfMemory:
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights that are loaded; any thread may ask."""
        return sum(sampler.generator.size_bytes for sampler in list(self._loaded.values()))


def _buckets(max_batch: int) -> tuple[int, ...]:
    return (*(size for size in SIZES if size < max_batch), max_batch)
