"""What the clients of bench/chaos.py ask for: jobs of every kind, drawn from a seed, and the pictures that they need."""

from __future__ import annotations

import io
import math
import random
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32  # px, the smallest that is trained
KINDS = ("sample", "train", "evaluate", "import", "export")
# Of a thousand jobs. What costs seconds of a processor is rare, so that a run ends.
SHARES = {"one": 0.712, "many": 0.15, "train": 0.06, "evaluate": 0.008, "import": 0.05, "export": 0.02}
WORTH_HITTING = {"sample": "large", "train": "long"}  # by kind of job; the others take a while as they are
CANCELED, TWICE = 0.06, 0.05  # shares of the jobs that are canceled by their client, and sent two times at once
ARCHIVES = {"few": 24, "base": 64, "some": 300, "lots": 3000}  # pictures in each
LARGE = 600  # images of the one generation in each group that takes a while
BUDGETS = (64, 1200)  # images, of a training of a few steps, and of one that takes a while
OPTIONS: Mapping[str, Mapping[str, int]] = {
    "gan-dcgan": {"base_channels": 4, "latent_dim": 8, "batch_size": 8},
    "vae-sigma": {"base_channels": 4, "latent_dim": 8, "batch_size": 8},
}


@dataclass(frozen=True)
class Lesson:
    """A training that can be asked for; equal ones end with equal weights."""

    kind: str
    images: int
    seed: int


@dataclass(frozen=True)
class Wish:
    """A job that a client asks for."""

    key: str  # its Idempotency-Key
    kind: str  # of the job
    path: str  # of the route
    body: Mapping[str, Any]  # JSON; of an import, `archive` names the upload
    pause_s: float  # of the client before it asks
    cancel_after_s: float | None  # when its client cancels it; None: never
    twice: bool  # sent two times at once

    @property
    def images(self) -> int:
        """How many a generation makes."""
        return int(self.body["n"])

    @property
    def lesson(self) -> Lesson:
        """What a training learns."""
        return Lesson(self.body["kind"], self.body["budget"]["images"], self.body["seed"])


@dataclass(frozen=True)
class Studio:
    """What there is before chaos begins."""

    dataset: str
    models: Sequence[str]


def draw(source: random.Random, count: int, needs: Sequence[str | None], studio: Studio) -> list[list[Wish]]:
    """Return `count` wishes in groups of about equal size.

    Args:
        source: of all choices.
        count: of jobs; as many as there are groups, at least.
        needs: for each group a kind of job that it must have, one that takes a while; None: any will do.
        studio: what they can be about.
    """
    sorts = [sort for sort, share in SHARES.items() for _ in range(math.ceil(share * count))][-count:]
    source.shuffle(sorts)
    dealt = [sorts[number :: len(needs)] for number in range(len(needs))]
    for group, need in zip(dealt, needs, strict=True):
        if need is not None:
            group[group.index("one") if "one" in group else -1] = WORTH_HITTING.get(need, need)
    numbers = iter(range(count))
    return [[_wish(source, sort, next(numbers), studio) for sort in group] for group in dealt]


def _wish(source: random.Random, sort: str, number: int, studio: Studio) -> Wish:
    model, dataset = source.choice(list(studio.models)), studio.dataset
    kind, path = sort, f"/v1/{sort}s"
    body: dict[str, Any]
    if sort in {"one", "many", "large"}:
        images = {"one": 1, "many": source.randint(2, 80), "large": LARGE}[sort]
        kind, path = "sample", "/v1/generations"
        body = {"model": model, "n": images, "seed": source.randrange(10**6)}
        body |= {"priority": source.choice(["interactive", "batch"])} if source.random() < 0.3 else {}
    elif sort in {"train", "long"}:
        trained = source.choice(list(OPTIONS))
        kind, path = "train", "/v1/trainings"
        body = {
            "dataset": dataset, "kind": trained, "options": dict(OPTIONS[trained]), "resolution": SIDE,
            "budget": {"images": BUDGETS[sort == "long"]}, "seed": source.choice([1, 2]),
        }  # fmt: skip
    elif sort == "evaluate":
        path, body = "/v1/evaluations", {"model": model, "n": 50, "seed": source.choice([0, 1000])}
    elif sort == "import":
        path, body = "/v1/datasets", {"archive": source.choice(list(ARCHIVES)), "name": "squares", "resolution": SIDE}
    else:
        path, body = f"/v1/models/{model}/exports", {"format": "onnx" if source.random() < 0.2 else "native"}
    canceled, twice = source.random() < CANCELED, source.random() < TWICE
    return Wish(
        key=f"chaos-{number:05d}",
        kind=kind,
        path=path,
        body=body,
        pause_s=source.uniform(0, 0.4),
        cancel_after_s=source.uniform(0, 2) if canceled else None,
        twice=twice,
    )


def lessons(wishes: Sequence[Wish]) -> Iterator[Lesson]:
    """Each training that is asked for, once."""
    yield from sorted({wish.lesson for wish in wishes if wish.kind == "train"}, key=str)


def archive(pictures: int) -> bytes:
    """A zip of so many small grey squares in two folders, the same bytes each time."""
    source, content = np.random.default_rng(pictures), io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for number in range(pictures):
            name, base = ("light", 160) if number % 2 else ("dark", 20)
            pixels = source.integers(base, base + 60, (SIDE, SIDE), dtype=np.uint8)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            file.writestr(zipfile.ZipInfo(f"{name}/{number:04d}.png", (1980, 1, 1, 0, 0, 0)), png.getvalue())
    return content.getvalue()
