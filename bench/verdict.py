"""What came of it: every promise against rows, blobs, and work that nobody disturbed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.clients import Acknowledged
from bench.rows import Observer
from bench.wishes import OPTIONS, SIDE, Lesson, Studio, Wish
from models.catalog import parse_options
from models.checkpoint import STATE
from models.data import PreparedImages
from models.generator import WEIGHTS, Generator
from models.prepare import prepare
from models.prepared import prepared
from models.sampling import SampleItem, Sampler
from models.trainer import TrainingConfig, train

BUCKETS = (1, 8, 32)  # as a sampler's, for the default batch
LEVELS = 1  # by how much a pixel may differ from the generator's that was not prepared
OWN = ("elapsed_s", "images_per_s", "job", "strips")  # of an evaluation, no two alike


@dataclass
class Findings:
    """What is wrong, each by a line that names the job."""

    lost: list[str]
    twice: list[str]
    stuck: list[str]
    images: list[str]
    results: list[str]
    images_checked: int = 0
    results_checked: int = 0


class Judge:
    """Compares."""

    def __init__(
        self, observer: Observer, blobs: Path, folder: Path, studio: Studio, archives: Mapping[str, bytes]
    ) -> None:
        """Reads nothing yet.

        Args:
            observer: of the rows.
            blobs: the service's blob directory.
            folder: for the undisturbed work.
            studio: what was there before chaos began.
            archives: the uploads by name.
        """
        self._observer, self._blobs, self._folder = observer, blobs, folder
        self._studio, self._archives = studio, archives
        self._rendered: dict[tuple[str, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._generators: dict[str, tuple[Generator, Sampler]] = {}
        self._lessons: dict[Lesson, dict[str, bytes]] = {}
        self._prepared: dict[str, dict[str, bytes]] = {}

    def judge(self, acknowledged: Acknowledged) -> Findings:
        """Every promise about every job."""
        found = Findings([], [], [], [], [])
        rows = {row.id: row for row in self._jobs}
        for job_id, wish in acknowledged.jobs.items():
            row = rows.get(job_id)
            if row is None:
                found.lost.append(f"{job_id} ({wish.kind}) has no row")
            elif row.status in {"queued", "running"}:
                found.stuck.append(f"{job_id} ({wish.kind}) is {row.status}, attempt {row.attempts}")
            elif row.status != "succeeded" and not (row.status == "canceled" and job_id in acknowledged.canceled):
                found.lost.append(f"{job_id} ({wish.kind}) has {row.status}: {row.error_code} {row.error_message}")
        found.lost += acknowledged.refused
        found.twice += [f"{key} became {sorted(ids)}" for key, ids in acknowledged.ids_of.items() if len(ids) > 1]
        keys = Counter(row.idempotency_key for row in self._jobs if row.idempotency_key is not None)
        found.twice += [f"{number} jobs for {key}" for key, number in keys.items() if number > 1]
        found.twice += [
            f"{row.id} ({row.kind}) was asked for by nobody"
            for row in self._jobs
            if row.idempotency_key is not None and row.id not in acknowledged.jobs
        ]
        found.twice += [f"changed after its end: {line}" for line in self._observer.changed]
        self._judge_images(acknowledged, rows, found)
        self._judge_results(acknowledged, rows, found)
        return found

    @cached_property
    def _jobs(self) -> Sequence[Any]:
        return self._observer.select(
            "SELECT id, kind, status, attempts, cursor, total, dataset_id, model_id, checkpoint, fence, request, result, "
            "idempotency_key, error_code, error_message, finished_at FROM jobs"
        )

    # Images

    def _judge_images(self, acknowledged: Acknowledged, rows: Mapping[str, Any], found: Findings) -> None:
        images = defaultdict(list)
        for image in self._observer.select(
            "SELECT job_id, position, seed, checkpoint, blob, sha256, size_bytes FROM images"
        ):
            images[image.job_id].append(image)
        for job_id, wish in acknowledged.jobs.items():
            if wish.kind != "sample" or job_id not in rows:
                continue
            row, made = rows[job_id], sorted(images[job_id], key=lambda image: image.position)
            wanted = wish.images if row.status == "succeeded" else row.cursor
            positions = Counter(image.position for image in made)
            found.twice += [
                f"{job_id} has position {at} {number} times" for at, number in positions.items() if number > 1
            ]
            if missing := set(range(wanted)) - positions.keys():
                found.images.append(f"{job_id} lacks {len(missing)} of {wanted} images, the first {min(missing)}")
            if beyond := positions.keys() - set(range(wanted)):
                found.twice.append(f"{job_id} has {len(beyond)} images beyond {wanted}")
            for image in made:
                found.images_checked += 1
                if problem := self._image_problem(row, wish, image):
                    found.images.append(f"{job_id} position {image.position}: {problem}")

    def _image_problem(self, row: Any, wish: Wish, image: Any) -> str | None:
        path = self._blobs / image.blob
        if not path.is_file():
            return "its file is missing"
        content = path.read_bytes()
        if (hashlib.sha256(content).hexdigest(), len(content)) != (image.sha256, image.size_bytes):
            return "its file is not what its row says"
        if image.seed != wish.body["seed"] + image.position or image.checkpoint != row.checkpoint:
            return f"it has seed {image.seed} and weights {image.checkpoint}"
        with Image.open(BytesIO(content)) as opened:
            pixels = np.asarray(opened)
        exact, plain = self._reference(image.checkpoint, image.seed)
        if not np.array_equal(pixels, exact):
            return "its pixels are not those of its seed"
        if int(np.abs(pixels.astype(int) - plain.astype(int)).max()) > LEVELS:
            return "its pixels are far from those of the generator as it was trained"
        return None

    def _reference(self, checkpoint: str, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture of a seed, [H, W], made here: as samplers do it, and by the generator as it was trained."""
        if (checkpoint, seed) not in self._rendered:
            if checkpoint not in self._generators:
                plain = Generator.load(self._blobs / checkpoint)
                exact = Sampler(prepared(Generator.load(self._blobs / checkpoint)), buckets=BUCKETS)
                self._generators[checkpoint] = plain, exact
            plain, exact = self._generators[checkpoint]
            seeds = range(seed, seed + 32)  # a job's are consecutive: the next ones will be asked for
            pairs = zip(
                exact.sample([SampleItem(one) for one in seeds]),
                Sampler(plain, buckets=(1,)).sample([SampleItem(one) for one in seeds]),
                strict=True,
            )
            for one, (ours, trained) in zip(seeds, pairs, strict=True):
                self._rendered[checkpoint, one] = ours.pixels[0], trained.pixels[0]
        return self._rendered[checkpoint, seed]

    # Everything else

    def _judge_results(self, acknowledged: Acknowledged, rows: Mapping[str, Any], found: Findings) -> None:
        alike: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for job_id, wish in acknowledged.jobs.items():
            row = rows.get(job_id)
            if row is None or row.status != "succeeded" or wish.kind == "sample":
                continue
            found.results_checked += 1
            result = json.loads(row.result) if isinstance(row.result, str) else row.result
            if wish.kind == "train":
                problems = list(self._training_problems(row, wish, result))
            elif wish.kind == "import":
                problems = list(self._import_problems(row, wish))
            elif wish.kind == "export":
                problems = list(self._export_problems(row, wish, result))
                if wish.body["format"] == "native":
                    alike["export", row.checkpoint].add(result["sha256"])
            else:
                problems = []
                about = row.checkpoint, str(wish.body["n"]), str(wish.body["seed"])
                alike[("evaluate", *about)].add(json.dumps(_timeless(result["evaluation"]), sort_keys=True))
            found.results += [f"{job_id} ({wish.kind}): {problem}" for problem in problems]
        found.results += [
            f"{len(results)} different results of {about}" for about, results in alike.items() if len(results) > 1
        ]

    def _training_problems(self, row: Any, wish: Wish, result: Mapping[str, Any]) -> Iterator[str]:
        kept = self._observer.select(
            "SELECT images_seen, blob FROM training_checkpoints WHERE model_id = :model ORDER BY images_seen",
            model=row.model_id,
        )
        points = self._observer.select(
            "SELECT images_seen, count(*) AS number FROM training_metrics WHERE model_id = :model GROUP BY images_seen",
            model=row.model_id,
        )
        (model,) = self._observer.select("SELECT status, checkpoint FROM models WHERE id = :model", model=row.model_id)
        if result["images_seen"] != wish.lesson.images or not kept or kept[-1].images_seen != wish.lesson.images:
            yield f"it ended after {result['images_seen']} images, with checkpoints {[one.images_seen for one in kept]}"
            return
        if model.status != "ready" or model.checkpoint != kept[-1].blob:
            yield f"its model is {model.status} and samples from {model.checkpoint}, not {kept[-1].blob}"
        if any(point.number > 1 for point in points):
            yield "a point of its curves is there twice"
        for one in kept:
            if not (self._blobs / one.blob / WEIGHTS).is_file():
                yield f"the files of its checkpoint {one.blob} are missing"
        for name, content in self._lesson(wish.lesson).items():
            path = self._blobs / kept[-1].blob / name
            if not path.is_file() or path.read_bytes() != content:
                yield f"{name} is not what an undisturbed training gives"

    def _lesson(self, lesson: Lesson) -> Mapping[str, bytes]:
        """The tensor files that a training ends with which nobody disturbs."""
        if lesson not in self._lessons:
            data = PreparedImages.open(self._blobs / f"datasets/{self._studio.dataset}")
            options = parse_options(lesson.kind, dict(OPTIONS[lesson.kind]))
            config = TrainingConfig(lesson.kind, SIDE, options, budget_images=lesson.images, seed=lesson.seed)
            run_dir = self._folder / f"{lesson.kind}-{lesson.images}-{lesson.seed}"
            ended = train(data, config, run_dir)
            self._lessons[lesson] = {name: (ended.checkpoint / name).read_bytes() for name in (STATE, WEIGHTS)}
        return self._lessons[lesson]

    def _import_problems(self, row: Any, wish: Wish) -> Iterator[str]:
        name = wish.body["archive"]
        if name not in self._prepared:
            source, target = self._folder / f"{name}.zip", self._folder / name
            source.write_bytes(self._archives[name])
            prepare(source, target, resolution=SIDE, source_name=wish.body["name"])
            self._prepared[name] = {path.name: path.read_bytes() for path in target.iterdir()}
        folder = self._blobs / f"datasets/{row.dataset_id}"
        (dataset,) = self._observer.select("SELECT status, image_count FROM datasets WHERE id = :id", id=row.dataset_id)
        if dataset.status != "ready":
            yield f"its data set is {dataset.status}"
        for file, content in self._prepared[name].items():
            if not (folder / file).is_file() or (folder / file).read_bytes() != content:
                yield f"{file} is not what an undisturbed import gives"

    def _export_problems(self, row: Any, wish: Wish, result: Mapping[str, Any]) -> Iterator[str]:
        newest = max(
            (job for job in self._jobs if self._same_export(job, row.model_id, wish.body["format"])),
            key=lambda job: (job.finished_at, job.id),
        )
        if newest.id != row.id:
            return  # a newer one has taken its place
        path = self._blobs / f"models/{row.model_id}/exports/{row.id}-{row.fence}.zip"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != result["sha256"]:
            yield "its file is not what its row says"

    @staticmethod
    def _same_export(job: Any, model_id: str, form: str) -> bool:
        request = json.loads(job.request) if isinstance(job.request, str) else job.request
        return (job.kind, job.model_id, job.status) == ("export", model_id, "succeeded") and request["format"] == form


def _timeless(value: Any) -> Any:
    """The same without what differs between any two runs: times, and the job's own id."""
    if isinstance(value, Mapping):
        return {name: _timeless(one) for name, one in value.items() if name not in OWN}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
