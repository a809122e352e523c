"""Evaluate jobs: a model is measured by real pictures, and its row says how good it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from models.data import PreparedImages
from models.evaluation import Extractor, Inception, evaluate, find_extractor, strips, train_extractor
from models.generator import Generator
from store.records import Model
from store.strips import strips_key
from worker.running import Finish, Run
from worker.scratch import scratch

LESSON_PERCENT = 70.0  # of the whole work, where an extractor has to learn first


def evaluate_model(run: Run) -> Finish:
    """Measure the weights that the job is pinned to; the returned finish writes the numbers to the model and the job.

    The extractor of the data set is kept beside it, for every later evaluation; the strips are kept with the model.
    """
    resources, claim, device = run.resources, run.claim, run.station.device
    assert claim.checkpoint is not None
    file = resources.settings.inception_file
    inception = None if file is None else Inception.load(file, device)
    with scratch(resources.settings, claim) as directory:
        generator = Generator.load(resources.blobs.fetch(claim.checkpoint, directory / "model"), device)
        prepared = resources.blobs.fetch(f"datasets/{claim.dataset_id}", directory / "data")
        data, against = PreparedImages.open(prepared), None
        if claim.request.get("against") is not None:
            others = resources.blobs.fetch(f"datasets/{claim.request['against']}", directory / "against")
            against = PreparedImages.open(others)
        extractor = find_extractor(prepared, data, generator.resolution, device=device)
        lesson = _Share(run, 0.0, LESSON_PERCENT)
        if extractor is None:
            extractor = train_extractor(
                data, generator.resolution, device=device, on_progress=lesson.report, should_stop=run.should_stop
            )
            keep_extractor(run, extractor, directory / "extractor")
            begin = LESSON_PERCENT
        else:
            begin = 0.0
        evaluation = evaluate(
            generator,
            data,
            extractor,
            against=against,
            n=claim.request["n"],
            seed=claim.request["seed"],
            inception=inception,
            on_progress=_Share(run, begin, 100.0).report,
            should_stop=run.should_stop,
        )
        assert claim.model_id is not None
        sheet = directory / "strips.png"
        sheet.write_bytes(strips(evaluation.suspects, generator, data))
        resources.blobs.put_file(strips_key(claim.model_id, claim.job_id), sheet)
    found = {
        "job": claim.job_id,
        "dataset": claim.dataset_id,
        "strips": f"/v1/evaluations/{claim.job_id}/strips",
        **evaluation.to_json(),
    }

    def finish(session: Session) -> dict[str, Any]:
        model = session.get_one(Model, claim.model_id, with_for_update=True)
        before = model.metrics.get("evaluation")
        if (
            before is None or before["images_seen"] <= evaluation.images_seen
        ):  # else newer weights were measured meanwhile
            model.metrics = {**model.metrics, "evaluation": found}
        return {"model": model.id, "evaluation": found}

    return finish


def keep_extractor(run: Run, extractor: Extractor, directory: Path) -> None:
    """Store the extractor beside its data set, the card last; `directory` is made for it."""
    directory.mkdir()
    for path in extractor.save(directory):
        run.resources.blobs.put_file(f"datasets/{run.claim.dataset_id}/{path.name}", path)


class _Share:
    """Shows one part of the work as a part of its hundred percent."""

    def __init__(self, run: Run, begin: float, end: float) -> None:
        self._run, self._begin, self._end = run, begin, end
        self._started = time.monotonic()

    def report(self, done: int, total: int) -> None:
        percent = self._begin + (self._end - self._begin) * done / total
        took_s = time.monotonic() - self._started
        eta_s = took_s * (100.0 - percent) / (percent - self._begin) if percent > self._begin else None
        self._run.report(done=percent, total=100.0, rate=None, eta_s=eta_s)
