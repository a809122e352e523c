"""Evaluate a generator: make pictures, look at them with the data set's extractor, compare them with real ones.

Real pictures stand in for generated ones first, in equal numbers: that gives each measure's floor. Where more pictures are
asked for than there are real ones for that, they are measured in several rounds, so that value and floor have the same N
and with it the same bias.

Shapes: N images, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from models.catalog import MAX_SEED
from models.data import PreparedImages, TrainingImages
from models.errors import InvalidOption, NotComparable, TooFewImages
from models.evaluation.comparing import Plan, compare
from models.evaluation.extractor import Extractor, fingerprint
from models.evaluation.gallery import Gallery
from models.evaluation.inception import FEATURES, WORK, Inception
from models.evaluation.memorisation import memorisation
from models.evaluation.pictures import Pictures, asked_labels
from models.evaluation.progress import OnProgress, Progress, ShouldStop
from models.evaluation.report import MEASURES, Evaluation, Score
from models.evaluation.split import split
from models.evaluation.strips import Neighbour, Suspect, find_suspects
from models.generator import Generator
from models.manifest import Manifest
from models.randomness import derived_seed
from models.sampling import SampleItem, Sampler

LEAST_PART = 8  # images in any set that is measured: the neighbourhoods of density and coverage need more than 5
MOST_REAL = 10_000  # of any part of the real images; more cost memory and change little
MOST_GENERATED = 50_000
FEW = 500  # reference images, below which a Fréchet distance says more about N than about the model
_MADE_AT_ONCE = 256


def evaluate(
    generator: Generator | Gallery,
    data: PreparedImages,
    extractor: Extractor,
    *,
    against: PreparedImages | None = None,
    n: int = 4000,
    seed: int = 0,
    inception: Inception | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Evaluation:
    """Measure a generator by the data that it learnt from.

    Args:
        generator: the model; it is asked for the classes as often as the data has them. Or pictures that another program made.
        data: what it was trained on.
        extractor: of that data, at the generator's resolution.
        against: other pictures of the same sort, which the model has not seen, to compare with; files that are in `data` too
            are left out. None: the reference part of `data`, which a training on all of it has seen.
        n: pictures to generate.
        seed: of the first picture; the others count up.
        inception: to take FID and IS with as well. None: neither is.
        on_progress: called as the work goes on.
        should_stop: asked every few hundred pictures and before each measure.

    Raises:
        NotComparable: sizes, colours or extractor do not fit.
        TooFewImages: there is too little to compare with.
        InvalidOption: n or seed are out of bounds.
        Stopped: should_stop() said so.
    """
    _check(generator, data, extractor, against, n, seed)
    started = time.monotonic()
    parts = split(data.manifest)
    study, control = parts.study[:MOST_REAL], parts.control[: min(n, MOST_REAL)]
    compared, reference = (data, parts.reference) if against is None else (against, _unseen(against, data))
    reference = reference[:MOST_REAL]
    for name, part in (("study", study), ("control", control), ("reference", reference)):
        if len(part) < LEAST_PART:
            raise TooFewImages(
                f"only {len(part)} real images are left for the {name} part, at least {LEAST_PART} are needed; "
                "import more images"
            )
    size = min(n, len(control))
    rounds = n // size
    asked, of_class = asked_labels(generator, data.manifest, n, seed)
    plan = Plan(
        paired=of_class is not None,
        readable=extractor.card.classes is not None,
        classes=len(data.manifest.classes or ()) if compared.manifest.classes == data.manifest.classes else 0,
        device=extractor.network.mean.device,
    )
    total = len(study) + len(reference) + 2 * len(control) + 3 * n + 2 * plan.lesson_pictures(size)
    if inception is not None:
        total += WORK * (len(reference) + len(control) + n + rounds + 1)
    progress = Progress(total, on_progress, should_stop)

    loaded = data.load(generator.resolution)
    theirs = _real(
        loaded if against is None else against.load(generator.resolution), reference, extractor, progress, inception
    )
    floor_pictures = _real(loaded, control, extractor, progress, inception)
    study_features = _real(loaded, study, extractor, progress).features
    made_at = time.monotonic()
    images = _generate(generator, asked, n, seed, progress)
    images_per_s = generator.images_per_s if isinstance(generator, Gallery) else n / (time.monotonic() - made_at)
    features, outputs = extractor.read(images, should_stop=progress.stopping)
    progress.advance(n)
    seen = None if inception is None else inception.read(images, progress)
    generated = Pictures(images, features, outputs, of_class, seen)

    floors: dict[str, float] = {}
    for name, value, pictures in compare(floor_pictures, theirs, plan, derived_seed(seed, "floor"), progress.stopping):
        floors[name] = value
        progress.advance(pictures)
    values: dict[str, list[float]] = {name: [] for name in floors}
    for number in range(rounds):
        of_round = plan if number == 0 else replace(plan, classes=0)  # one lesson is enough
        of_it = generated.part(number * size, size)
        for name, value, pictures in compare(
            of_it, theirs, of_round, derived_seed(seed, "round", number), progress.stopping
        ):
            values[name].append(value)
            progress.advance(pictures)
    copies = memorisation(features, study_features, theirs.features, held_out_unseen=against is not None)
    suspects = _suspects(features, study_features, study, data.manifest, asked, seed)
    progress.finish()
    return Evaluation(
        kind=generator.kind,
        images_seen=generator.images_seen,
        resolution=generator.resolution,
        channels=generator.channels,
        seed=seed,
        n=size,
        rounds=rounds,
        n_reference=len(theirs),
        reference=compared.manifest.source_name,
        extractor_sha256=extractor.sha256,
        extractor_lesson=extractor.card.lesson,
        extractor_seed=extractor.card.seed,
        scores={name: _score(values[name], floors[name]) for name in MEASURES if _finite(values, floors, name)},
        inception_sha256=None if inception is None else inception.sha256,
        memorisation=copies,
        suspects=suspects,
        notes=tuple(_notes(theirs, size, against is None, generator, of_class, plan)),
        images_per_s=images_per_s,
        elapsed_s=time.monotonic() - started,
    )


def _real(
    loaded: TrainingImages, chosen: Tensor, extractor: Extractor, progress: Progress, inception: Inception | None = None
) -> Pictures:
    """Some of a data set's pictures, seen by the extractor and, where there is one, by Inception."""
    images = loaded.pixels[chosen]
    features, outputs = extractor.read(images, should_stop=progress.stopping)
    progress.advance(len(chosen))
    labels = None if loaded.labels is None else loaded.labels[chosen]
    return Pictures(images, features, outputs, labels, None if inception is None else inception.read(images, progress))


def _generate(generator: Generator | Gallery, labels: Tensor | None, n: int, seed: int, progress: Progress) -> Tensor:
    """The pictures of seeds from `seed` on, uint8 [N, C, H, W]: those that a user would get for them."""
    if isinstance(generator, Gallery):
        progress.advance(n)
        return generator.images[:n]
    sampler = Sampler(generator)
    items = [SampleItem(seed + index, None if labels is None else int(labels[index])) for index in range(n)]
    made: list[Tensor] = []
    for start in range(0, n, _MADE_AT_ONCE):
        part = sampler.sample(items[start : start + _MADE_AT_ONCE])
        made.extend(torch.from_numpy(picture.pixels) for picture in part)
        progress.advance(len(part))
    return torch.stack(made)


def _suspects(
    features: Tensor, study_features: Tensor, study: Tensor, manifest: Manifest, asked: Tensor | None, seed: int
) -> tuple[Suspect, ...]:
    """The generated pictures nearest to pictures of the study part, by seed and by the names of those."""
    return tuple(
        Suspect(
            seed + index,
            None if asked is None else int(asked[index]),
            tuple(
                Neighbour(place, manifest.images[place].path, distance)
                for place, distance in zip(study[near].tolist(), distances, strict=True)
            ),
        )
        for index, near, distances in find_suspects(features, study_features)
    )


def _unseen(against: PreparedImages, data: PreparedImages) -> Tensor:
    """The indices of those images of `against` whose files are not in `data`, in the order of their hashes."""
    seen = {image.sha256 for image in data.manifest.images}
    hashes = [image.sha256 for image in against.manifest.images]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    return torch.tensor([index for index in order if hashes[index] not in seen], dtype=torch.int64)


def _check(
    generator: Generator | Gallery,
    data: PreparedImages,
    extractor: Extractor,
    against: PreparedImages | None,
    n: int,
    seed: int,
) -> None:
    if isinstance(generator, Gallery) and n > len(generator.images):
        raise InvalidOption("n", f"got {n}", f"at most the {len(generator.images)} pictures of the gallery")
    if not LEAST_PART <= n <= MOST_GENERATED:
        raise InvalidOption("n", f"got {n}", f"integer from {LEAST_PART} to {MOST_GENERATED}")
    if not 0 <= seed <= MAX_SEED + 1 - n:
        raise InvalidOption("seed", f"got {seed}", f"integer from 0 to {MAX_SEED + 1 - n}")
    for other in (data, against):
        if other is None:
            continue
        made, real = other.manifest.resolution, other.manifest.channels
        if generator.channels != real or generator.resolution > made:
            raise NotComparable(
                f"the model makes pictures of {generator.resolution} px and {generator.channels} channels, "
                f"{other.manifest.source_name} was prepared at {made} px and {real}; "
                "prepare it with the model's resolution and channels"
            )
    if extractor.card.data != fingerprint(data.manifest) or extractor.card.resolution != generator.resolution:
        raise NotComparable("this extractor is of another data set or resolution; train one on this data")


def _score(values: list[float], floor: float) -> Score:
    return Score(statistics.fmean(values), floor, statistics.stdev(values) if len(values) > 1 else None)


def _finite(values: dict[str, list[float]], floors: dict[str, float], name: str) -> bool:
    """Whether a measure was taken, and could be."""
    return name in floors and bool(values[name]) and all(map(math.isfinite, [*values[name], floors[name]]))


def _notes(
    theirs: Pictures, size: int, seen: bool, generator: Generator | Gallery, of_class: Tensor | None, plan: Plan
) -> Iterator[str]:
    if len(theirs) < FEW:
        yield f"Only {len(theirs)} reference images: FD-domain is rough and its floor is high; trust KID more."
    if theirs.inception is not None and min(size, len(theirs)) <= FEATURES:
        yield (
            f"FID compares {size:,} pictures with {len(theirs):,}, no more than there are features ({FEATURES:,}): "
            "set it beside its floor alone, and not beside numbers from papers, which take 50,000."
        )
    if seen:
        yield (
            "A training on the whole data set has seen the reference images too; "
            "pictures that it has not seen tell more about copying."
        )
    if generator.classes is not None and of_class is None:
        yield "The model's classes are not the data's: labels were drawn at random and their accuracy was not measured."
    if not plan.readable:
        yield "There were no labels, or too few images for each: the extractor learnt to tell pictures apart."
