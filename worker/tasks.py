"""The Celery tasks: one for each lane. A message carries nothing; the work is in the rows."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from store.queue import Lane
from store.records import JobKind
from worker.running import Station, run_queued


def register(app: Celery, lane: Lane, station: Station) -> None:
    """Gives the application the one task of this lane, with everything it needs already imported."""
    serve = _server(lane, station)

    def hear() -> None:  # Celery reads a task's signature by its name, so neither a lambda nor a method will do
        serve()

    app.task(hear, name=lane.queue_name, ignore_result=True, shared=False)


# Each lane imports what it needs and no more: a process that imports pictures holds no PyTorch.
def _server(lane: Lane, station: Station) -> Callable[[], None]:
    if lane is Lane.SAMPLE:
        from worker.sampler import LINGER_S, SliceSampler

        sampler = SliceSampler(station, linger_s=LINGER_S)
        sampler.warm()
        return sampler.serve
    if lane is Lane.TRAIN:
        from worker.evaluating import evaluate_model
        from worker.training import train_model

        work = {JobKind.TRAIN: train_model, JobKind.EVALUATE: evaluate_model}
        return lambda: run_queued(station, lane, lambda run: work[run.claim.kind](run))
    from worker.exporting import export_model
    from worker.importing import discard_upload, import_dataset
    from worker.importing_models import import_model

    work = {JobKind.IMPORT: import_dataset, JobKind.EXPORT: export_model, JobKind.IMPORT_MODEL: import_model}
    return lambda: run_queued(station, lane, lambda run: work[run.claim.kind](run), discard_upload)
