"""Reports as workers make them, for the tests of what shows them."""

from __future__ import annotations

from datetime import UTC, datetime

from store.reports import Histogram, Stage, WorkerReport

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()


def sampler(name: str = "sample-cuda0-aa@x", *, lane: str = "sample", device: str = "cuda:0") -> WorkerReport:
    """A sampler that made 58 images in ten batches."""
    return WorkerReport(
        name=name,
        lane=lane,
        device=device,
        version="0.1.0",
        started_at=NOON,
        seen_at=NOON + 60,
        images=58,
        images_per_s=50,
        image_s=0.02,
        cache_bytes=1000,
        stages={"claim": Stage(count=11, seconds=0.1), "render": Stage(count=10, seconds=0.5)},
        batch_images=Histogram(bounds=(1, 8), counts=(2, 8, 0), total=58),
        wait_s=Histogram(bounds=(0.01, 1), counts=(7, 2, 1), total=4),
    )
