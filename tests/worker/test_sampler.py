from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from sqlalchemy import select
from torch import Tensor, nn

from models import lanes
from models.generator import Generator
from models.sampling import Encode, Rendering, SampleItem, Sampler
from store import jobs
from store.errors import RedisUnavailable
from store.events import Heard
from store.queue import Lane, MemoryQueue
from store.records import Image, Job, JobKind, JobStatus
from tests.worker.conftest import Desk
from worker.generator_cache import GeneratorCache
from worker.running import Station
from worker.sampler import SliceSampler


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "FEWEST", 2)  # two lanes share out even the first batch, which is a half one


@pytest.fixture(params=[1, 2], ids="{}-threads".format)
def sampler(request: pytest.FixtureRequest, station: Station) -> SliceSampler:
    return SliceSampler(replace(station, threads=request.param))


def images_of(desk: Desk, job_id: str) -> list[Image]:
    with desk.resources.database.snapshot() as session:
        return list(session.scalars(select(Image).where(Image.job_id == job_id).order_by(Image.position)))


def test_a_job_gets_its_pictures_with_consecutive_seeds(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    job_id = desk.sample_job(3, seed=100, label=1)
    sampler.serve()
    job, images = desk.job(job_id), images_of(desk, job_id)
    assert (job.status, job.done, job.result) == (JobStatus.SUCCEEDED, 3, {"images": 3})
    assert [(image.position, image.seed, image.label) for image in images] == [
        (0, 100, "light"),
        (1, 101, "light"),
        (2, 102, "light"),
    ]
    data = desk.resources.blobs.get(images[0].blob)
    assert hashlib.sha256(data).hexdigest() == images[0].sha256
    assert Picture.open(io.BytesIO(data)).size == (32, 32)


def test_every_png_says_that_it_is_generated_and_by_what(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    job_id = desk.sample_job(1, seed=7)
    sampler.serve()
    picture = Picture.open(io.BytesIO(desk.resources.blobs.get(images_of(desk, job_id)[0].blob)))
    picture.load()
    made = json.loads(picture.info["Darkroom"])
    assert (made["model"], made["seed"], made["images_seen"]) == ("mdl_squares", 7, 32)
    assert json.loads(picture.info["AIGC"])["Label"] == "1"
    assert "trainedAlgorithmicMedia" in str(picture.info["xmp"])


def test_a_job_larger_than_a_batch_is_made_in_slices_and_small_ones_overtake_it(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    original = Sampler.begin

    def watched(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        batches.append([item.seed for item in items])
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", watched)
    desk.model()
    large, small = desk.sample_job(20, seed=0), desk.sample_job(2, seed=500)
    sampler.serve()
    # Given max_batch = 8, the large job opens, by half a batch, then stands behind the small one.
    assert batches[0] == [0, 1, 2, 3]
    assert batches[1] == [500, 501, 4, 5, 6, 7, 8, 9]
    assert batches[2] == [10, 11, 12, 13, 14, 15, 16, 17]
    assert [image.seed for image in images_of(desk, large)] == list(range(20))
    assert desk.job(small).status is JobStatus.SUCCEEDED


def test_a_batch_is_above_a_half_only_if_the_one_before_left_work_behind(
    desk: Desk, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given six clients who ask for another picture when one is made, I expect a larger batch after a full half only."""
    sizes: list[int] = []
    original = Sampler.begin

    def watched(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        sizes.append(len(items))
        if len(sizes) <= 3:
            for _ in items:
                desk.sample_job(1)
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", watched)
    desk.model()
    for _ in range(6):
        desk.sample_job(1)
    SliceSampler(station).serve()
    assert sizes == [4, 6, 4, 6]


def made_by_two_lanes(desk: Desk, station: Station, count: int) -> list[int]:
    """The positions of the images of a job that a sampler with two lanes has made."""
    desk.model()
    job_id = desk.sample_job(count)
    SliceSampler(replace(station, threads=2)).serve()
    assert desk.job(job_id).status is JobStatus.SUCCEEDED
    return [image.position for image in images_of(desk, job_id)]


def test_the_next_batch_begins_before_the_one_before_is_done(
    desk: Desk, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given two lanes, I expect a lane that waits for the second batch to begin before it ends the first."""
    second_begun = threading.Event()
    batches, shares = itertools.count(), itertools.count()
    begin, render = Sampler.begin, Generator.render

    def watched(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        if next(batches) == 1:
            second_begun.set()
        return begin(self, items, encode)

    def slow(self: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if next(shares) == 0:
            assert second_begun.wait(30)
        return render(self, latents, labels)

    monkeypatch.setattr(Sampler, "begin", watched)
    monkeypatch.setattr(Generator, "render", slow)
    assert made_by_two_lanes(desk, station, 20) == list(range(20))


def test_a_batch_is_begun_when_a_lane_is_about_to_be_idle(
    desk: Desk, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a batch that takes longer than the one before, I expect the next one to wait in line for its lanes already."""
    begun = [threading.Event() for _ in range(3)]
    batches, shares = iter(begun), itertools.count()
    begin, render = Sampler.begin, Generator.render

    def watched(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        rendering = begin(self, items, encode)
        next(batches).set()
        return rendering

    def slow(self: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        share = next(shares)  # two of each batch; the first's are timed, so they end after it was begun
        assert begun[0].wait(30)
        assert share not in {2, 3} or begun[2].wait(30)
        return render(self, latents, labels)

    monkeypatch.setattr(Sampler, "begin", watched)
    monkeypatch.setattr(Generator, "render", slow)
    assert made_by_two_lanes(desk, station, 20) == list(range(20))


def test_bytes_are_the_same_alone_and_in_any_company(desk: Desk, station: Station) -> None:
    desk.model()
    random.seed(4)
    wanted = [(random.randrange(1000), random.choice([None, 0, 1])) for _ in range(30)]
    alone: dict[tuple[int, int | None], str] = {}
    sampler = SliceSampler(station)
    for seed, label in wanted:
        job_id = desk.sample_job(1, seed=seed, label=label)
        sampler.serve()
        alone[seed, label] = images_of(desk, job_id)[0].sha256
    company = [(item, desk.sample_job(1, seed=item[0], label=item[1])) for item in random.sample(wanted, len(wanted))]
    desk.sample_job(17, seed=5000)
    SliceSampler(replace(station, threads=2)).serve()  # as after a restart, with more cores
    assert {item: images_of(desk, job_id)[0].sha256 for item, job_id in company} == alone


def test_a_queued_job_that_was_canceled_is_never_computed(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    job_id = desk.sample_job(4)
    with desk.resources.database.transaction() as session:
        jobs.request_cancel(session, job_id, now=desk.resources.database.now(session))
    sampler.serve()
    assert desk.job(job_id).status is JobStatus.CANCELED
    assert images_of(desk, job_id) == []


def test_of_jobs_that_are_late_or_canceled_while_queued_not_one_image_is_computed(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = watched_seeds(monkeypatch)
    desk.model()
    wanted, canceled = desk.sample_job(2, seed=0), desk.sample_job(8, seed=100)
    late = desk.sample_job(8, seed=200, deadline_at=datetime(2026, 1, 1, tzinfo=UTC))
    with desk.resources.database.transaction() as session:
        jobs.request_cancel(session, canceled, now=desk.resources.database.now(session))
    sampler.serve()
    assert seeds == [0, 1]
    assert desk.job(wanted).status is JobStatus.SUCCEEDED
    job = desk.job(late)
    assert (job.status, job.error_code) == (JobStatus.CANCELED, "deadline")
    assert desk.events(late) == ["done"]


def test_a_large_job_whose_deadline_passes_between_two_slices_stops_and_keeps_what_it_has(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    job_id = desk.sample_job(24)

    def passes(_: object) -> None:
        with desk.resources.database.transaction() as session:
            session.get_one(Job, job_id).deadline_at = datetime(2026, 1, 1, tzinfo=UTC)

    seeds = watched_seeds(monkeypatch, passes)
    sampler.serve()
    job = desk.job(job_id)
    assert (job.status, job.error_code, job.cursor, job.result) == (JobStatus.CANCELED, "deadline", 4, {"images": 4})
    assert seeds == list(range(4))


def watched_seeds(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[object], None] = lambda _: None) -> list[int]:
    """The seeds of every picture that is rendered from now on, in order."""
    seeds: list[int] = []
    original = Sampler.begin

    def watched(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        seeds.extend(item.seed for item in items)
        meanwhile(items)
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", watched)
    return seeds


def test_a_running_job_that_is_canceled_stops_at_the_next_slice_and_keeps_what_it_has(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    job_id = desk.sample_job(24)
    original = Sampler.begin

    def cancel_meanwhile(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        with desk.resources.database.transaction() as session:
            jobs.request_cancel(session, job_id, now=desk.resources.database.now(session))
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", cancel_meanwhile)
    sampler.serve()
    job = desk.job(job_id)
    assert (job.status, job.cursor, job.result) == (JobStatus.CANCELED, 4, {"images": 4})
    assert len(images_of(desk, job_id)) == 4


def test_a_worker_that_lost_its_lease_in_mid_batch_adds_no_image(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    job_id = desk.sample_job(4)
    original = Sampler.begin

    def lose_it(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        with desk.resources.database.transaction() as session:
            jobs.recover(session, now=desk.resources.database.now(session), max_attempts=9, owner="worker-1@here")
        desk.claim(JobKind.SAMPLE, owner="worker-2@there")
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", lose_it)
    sampler.serve()
    job = desk.job(job_id)
    assert (job.status, job.owner, job.cursor) == (JobStatus.RUNNING, "worker-2@there", 0)
    assert images_of(desk, job_id) == []


def test_one_bad_job_in_a_batch_fails_alone(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    good, bad, other = desk.sample_job(2), desk.sample_job(1, label=99), desk.sample_job(1, seed=9)
    sampler.serve()
    assert desk.job(good).status is desk.job(other).status is JobStatus.SUCCEEDED
    job = desk.job(bad)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "unknown_label")
    assert [desk.events(job_id)[0] for job_id in (good, other)] == [
        "status",
        "status",
    ]  # though it was tried again alone


class Narrow(nn.Module):
    """A network on a device with room for so many pictures at once."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room = network, room

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        if len(latent) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(latent)} pictures")
        pictures: Tensor = self.network(latent, labels)
        return pictures


@pytest.mark.parametrize("room", [0, 3])
def test_a_model_that_is_too_large_for_its_device_is_isolated_and_others_go_on(
    desk: Desk, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Given a model with room for so many pictures, I expect smaller batches, or its jobs alone to fail and say why."""
    load = Generator.load

    def loaded(directory: Path, device: str) -> Generator:
        generator = load(directory, device)
        if "mdl_large" not in str(directory):
            return generator
        return Generator(Narrow(generator.network, room), generator.card, generator.prior)

    monkeypatch.setattr(Generator, "load", loaded)
    desk.model("mdl_large")
    desk.model("mdl_small")
    large = [desk.sample_job(8, seed=seed, model="mdl_large") for seed in (1, 50)]
    small = desk.sample_job(8, seed=1, model="mdl_small")

    sampler.serve()

    assert desk.job(small).status is JobStatus.SUCCEEDED
    ended = [desk.job(job_id) for job_id in large]
    if room == 0:
        assert {(job.status, job.error_code, job.error_retryable) for job in ended} == {
            (JobStatus.FAILED, "out_of_memory", True)
        }
    else:
        assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
        assert [len(images_of(desk, job_id)) for job_id in large] == [8, 8]


def test_a_model_whose_weights_are_gone_fails_its_jobs_with_a_reason(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    job_id = desk.sample_job(1)
    desk.resources.blobs.delete("models/mdl_squares")
    sampler.serve()
    job = desk.job(job_id)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "data_missing")


def test_a_draining_sampler_hands_back_what_is_unfinished_at_its_cursor(
    desk: Desk, station: Station, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model()
    job_id = desk.sample_job(20)
    original = Sampler.begin

    def drain(self: Sampler, items: Sequence[SampleItem], encode: Encode | None = None) -> Rendering:
        station.draining.set()
        return original(self, items, encode)

    monkeypatch.setattr(Sampler, "begin", drain)
    sampler.serve()
    job = desk.job(job_id)
    assert (job.status, job.cursor, job.owner) == (JobStatus.QUEUED, 4, None)
    assert desk.resources.queue.waiting(Lane.SAMPLE) == 1


def test_jobs_for_two_models_are_made_in_two_batches(desk: Desk, sampler: SliceSampler) -> None:
    desk.model("mdl_a")
    desk.model("mdl_b")
    made = [desk.sample_job(1, seed=n, model=f"mdl_{name}") for n, name in enumerate("abab")]
    sampler.serve()
    assert all(desk.job(job_id).status is JobStatus.SUCCEEDED for job_id in made)
    assert [images_of(desk, job_id)[0].model_id for job_id in made] == ["mdl_a", "mdl_b", "mdl_a", "mdl_b"]


def test_a_sampler_that_starts_loads_what_was_asked_for_last(
    desk: Desk, station: Station, sampler: SliceSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.model("mdl_a")
    desk.model("mdl_b")
    for name in "ab":
        desk.sample_job(1, model=f"mdl_{name}")
    sampler.serve()
    loaded: list[str] = []
    original = GeneratorCache._load

    def load(self: GeneratorCache, checkpoint: str) -> Sampler:
        loaded.append(checkpoint)
        return original(self, checkpoint)

    monkeypatch.setattr(GeneratorCache, "_load", load)
    fresh = SliceSampler(station)
    fresh.warm()
    assert loaded == ["models/mdl_b/000000000032-1"]
    desk.sample_job(1, model="mdl_b", seed=3)
    fresh.serve()
    assert len(loaded) == 1


def test_a_sampler_starts_although_nothing_can_be_loaded(desk: Desk, station: Station, sampler: SliceSampler) -> None:
    SliceSampler(station).warm()  # nothing was ever asked for
    desk.model()
    desk.sample_job(1)
    sampler.serve()
    desk.resources.blobs.delete("models/mdl_squares")
    SliceSampler(station).warm()


def test_the_end_of_a_job_for_one_picture_is_told_with_the_picture(desk: Desk, sampler: SliceSampler) -> None:
    desk.model()
    one, two = desk.sample_job(1, seed=0), desk.sample_job(2, seed=1)
    with desk.resources.bus.watch() as watch:
        sampler.serve()
        heard = watch.next(5)

    [image] = images_of(desk, one)
    assert heard[one].picture == (image.id, image.sha256, image.blob)
    assert heard == {one: Heard(True, heard[one].picture), two: Heard(True)}


def test_a_sampler_that_lingers_hears_the_next_bell_itself(desk: Desk, station: Station) -> None:
    """Given a sampler that has run out of work, I expect the next bell to be enough for it to go on, until it drains."""
    desk.model()
    queue, made = desk.resources.queue, [desk.sample_job(1, seed=0)]
    thread = threading.Thread(target=SliceSampler(station, linger_s=60).serve)
    thread.start()
    with desk.resources.bus.watch() as watch:
        for seed in (1, 2):
            made.append(desk.sample_job(1, seed=seed))
            queue.ring(Lane.SAMPLE)
            heard: dict[str, Heard] = {}
            while not (made[-1] in heard and heard[made[-1]].ended):
                assert thread.is_alive()
                heard |= watch.next(5)
    station.draining.set()
    thread.join(10)

    assert not thread.is_alive()
    assert {desk.job(job_id).status for job_id in made} == {JobStatus.SUCCEEDED}


def test_a_sampler_whose_redis_is_away_leaves_the_bells_to_celery(
    desk: Desk, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise RedisUnavailable("it is away")

    monkeypatch.setattr(MemoryQueue, "take", away)
    desk.model()
    job_id = desk.sample_job(1)
    SliceSampler(station, linger_s=60).serve()

    assert desk.job(job_id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("count", [1, 8, 20])
def test_who_follows_a_job_hears_that_it_runs_before_its_pictures(
    desk: Desk, sampler: SliceSampler, count: int
) -> None:
    desk.model()
    job_id = desk.sample_job(count)
    sampler.serve()

    told = [event for event in desk.events(job_id) if event != "progress"]
    assert told == ["status", *["image"] * count, "done"]
