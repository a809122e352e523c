"""Each image of a job follows from the request and its position."""

from __future__ import annotations

import io
import json

from PIL import Image as Picture
from sqlalchemy import select

from models.sampling import Blend, SampleItem
from store import jobs
from store.records import Image, JobKind, JobStatus, Model
from tests.worker.conftest import Desk
from worker.recipes import item_of
from worker.running import Station
from worker.sampler import SliceSampler

PLAIN = {"seed": 5, "label": None}


def test_seeds_count_up_unless_each_is_given() -> None:
    assert item_of(PLAIN, 3) == SampleItem(8)
    assert item_of({**PLAIN, "seeds": [9, 1], "labels": [1, 0]}, 1) == SampleItem(1, 0)
    assert item_of({**PLAIN, "label": 2, "truncation": 0.5}, 0) == SampleItem(5, 2, 0.5)


def test_two_seeds_are_blended() -> None:
    way = {**PLAIN, "interpolate": {"from": 5, "to": 6, "frames": 5}}
    assert [item_of(way, k).blend for k in (0, 1, 4)] == [Blend("slerp", 6, weight) for weight in (0.0, 0.25, 1.0)]
    assert item_of({**PLAIN, "mix": {"seeds": [5, 6], "weight": 0.25}}, 0) == item_of(way, 1)
    around = {**PLAIN, "variations": {"of": 2, "strength": 0.3}}
    assert item_of(around, 2) == SampleItem(7, blend=Blend("variation", 2, 0.3))


def _job(desk: Desk, n: int, **request: object) -> str:
    with desk.resources.database.transaction() as session:
        checkpoint = session.get_one(Model, "mdl_squares").checkpoint
        job = jobs.submit(
            session,
            JobKind.SAMPLE,
            {"n": n, "seed": 5, "label": None, **request},
            now=desk.resources.database.now(session),
            model_id="mdl_squares",
            checkpoint=checkpoint,
            total=n,
        )
        return job.id


def _images(desk: Desk, job_id: str) -> list[Image]:
    with desk.resources.database.snapshot() as session:
        return list(session.scalars(select(Image).where(Image.job_id == job_id).order_by(Image.position)))


def test_rows_and_pngs_say_what_they_are_made_of(desk: Desk, station: Station) -> None:
    """Given jobs of every sort in the same batches and a way longer than one, I expect each image's recipe in row and PNG."""
    desk.model()
    way = _job(desk, 11, interpolate={"from": 5, "to": 6, "frames": 11})
    plain = desk.sample_job(2, seed=5)
    near = _job(desk, 1, variations={"of": 5, "strength": 0.0}, truncation=0.5)
    mixed = _job(desk, 1, mix={"seeds": [5, 6], "weight": 0.5})
    SliceSampler(station).serve()

    assert all(desk.job(job_id).status is JobStatus.SUCCEEDED for job_id in (way, plain, near, mixed))
    frames, ends = _images(desk, way), _images(desk, plain)
    assert [frame.recipe for frame in frames] == [{"slerp": {"to": 6, "weight": k / 10}} for k in range(11)]
    assert [end.recipe for end in ends] == [None, None]
    (varied,), (middle,) = _images(desk, near), _images(desk, mixed)
    assert varied.recipe == {"variation": {"of": 5, "strength": 0.0}, "truncation": 0.5}
    assert middle.sha256 == frames[5].sha256

    def opened(image: Image) -> Picture.Image:
        return Picture.open(io.BytesIO(desk.resources.blobs.get(image.blob)))

    assert opened(frames[0]).tobytes() == opened(ends[0]).tobytes() != opened(middle).tobytes()
    texts = [json.loads(opened(image).info["Darkroom"]) for image in (frames[3], ends[0])]
    assert texts[0]["recipe"] == frames[3].recipe
    assert "recipe" not in texts[1]
    produced = {json.loads(opened(image).info["AIGC"])["ProduceID"] for image in (*frames, ends[0])}
    assert len(produced) == 12
