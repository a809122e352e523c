"""The cheap measures, for use while a model is still learning: seconds instead of minutes, a few numbers instead of all.

The real pictures are looked at once, on construction. It knows nothing of trainings: whoever calls decides when, and for how
long. Full evaluations (models.evaluation.measuring) take more pictures, all measures, and rounds.

Shapes: N images, C channels, H W pixels, F features.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.data import PreparedImages
from models.errors import NotComparable, Stopped, TooFewImages
from models.evaluation.extractor import Extractor, fingerprint
from models.evaluation.frechet import frechet_distance_of_moments, moments
from models.evaluation.kernel import polynomial_mmd
from models.evaluation.neighbours import covered_share, nearest, radii
from models.evaluation.pictures import asked_labels
from models.evaluation.similarity import mean_pairwise_similarity
from models.evaluation.split import split
from models.generator import Generator
from models.randomness import derived_generator
from models.sampling import latents

QUICK_N = 1000  # generated pictures
MOST_REFERENCE = 2000  # real ones that they are compared with
LEAST_IMAGES = 8  # in any set that is compared: neighbourhoods of five need more than five
PAIRS = 200  # whose likeness is averaged
NEIGHBOURS = 5
COPY_QUANTILE = 0.01  # of real pictures' distances to the nearest training image
MOST_PAIRED = 500  # pictures whose distances to each other are averaged
_MADE_AT_ONCE = 64

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class QuickScores:
    """A few measures of one set of pictures; comparable where n, seed and extractor are equal."""

    fd_domain: float  # lower is better; grows as n shrinks
    kid: float  # lower is better; unbiased, and so below 0 now and then
    coverage: float  # share of real pictures with one of these nearby; higher is better, falls as n shrinks
    ms_ssim: float  # mean over pairs, of one class where there are classes; above the floor: too alike. NaN: no pairs
    diversity: float  # mean distance between two of these in features, against that of real ones; higher is better
    copies: float  # share nearer to a training image than 99 % of other real ones are; lower is better, 0.01 is chance
    n: int  # pictures in the set
    n_reference: int  # real pictures that they were compared with
    seed: int  # of the first picture; the others count up
    extractor_sha256: str
    took_s: float = field(compare=False)


class QuickMeasure:
    """Measures generators of one data set, quickly and as often as wanted, each time by the same real pictures.

    Nothing touches a global random state, and equal arguments give equal scores on the same machine.

    Args:
        extractor: of the data set, at the generators' resolution.
        data: the data set.

    Raises:
        NotComparable: the extractor is of other data.
        TooFewImages: fewer than LEAST_IMAGES are left to compare with.
    """

    def __init__(self, extractor: Extractor, data: PreparedImages) -> None:
        if extractor.card.data != fingerprint(data.manifest):
            raise NotComparable("this extractor is of another data set; train one on this data")
        self.extractor = extractor
        self._manifest = data.manifest
        parts = split(data.manifest)
        reference, control = parts.reference[:MOST_REFERENCE], parts.control[:MOST_REFERENCE]
        if min(len(reference), len(control)) < LEAST_IMAGES:
            raise TooFewImages(
                f"only {len(reference)} and {len(control)} real images are left to compare with, at least {LEAST_IMAGES} "
                "each are needed; import more images"
            )
        loaded = data.load(extractor.card.resolution)
        self._control = loaded.pixels[control]  # uint8 [N, C, H, W]
        self._control_labels = None if loaded.labels is None else loaded.labels[control]
        self._reference = extractor.read(loaded.pixels[reference])[0]  # float64 [N, F]
        self._reference_moments = moments(self._reference)
        self._reference_apart = _mean_distance(self._reference)
        self._study = extractor.read(loaded.pixels[parts.study[:MOST_REFERENCE]])[0]  # float64 [N, F]
        self._copy_radius = nearest(self._reference, self._study).quantile(COPY_QUANTILE)
        self._reference_radii = radii(self._reference, min(NEIGHBOURS, len(reference) - 1))
        self._floors: dict[tuple[int, int, bool], QuickScores] = {}

    def measure(
        self,
        generator: Generator,
        n: int = QUICK_N,
        seed: int = 0,
        *,
        within_s: float | None = None,
        should_stop: ShouldStop | None = None,
    ) -> QuickScores:
        """Measure a generator by pictures made for the occasion, classes as often as the data has them.

        Args:
            generator: the model, on any device; its network is left in evaluation mode.
            n: pictures to generate, at least LEAST_IMAGES.
            seed: of the first picture; the others count up.
            within_s: no more pictures are made after this time, so that there may be fewer than n, at least the first 64; the
                scores say how many. None: take the time that n pictures need, and give the same scores each time.
            should_stop: asked before every 64 pictures.

        Raises:
            NotComparable: the generator makes pictures of another size or colour.
            ValueError: n is below LEAST_IMAGES.
            Stopped: should_stop() said so.
        """
        card = self.extractor.card
        if (generator.resolution, generator.channels) != (card.resolution, card.channels):
            raise NotComparable(
                f"the model makes pictures of {generator.resolution} px and {generator.channels} channels, the extractor "
                f"learnt from {card.resolution} px and {card.channels}; train an extractor at the model's resolution"
            )
        if n < LEAST_IMAGES:
            raise ValueError(f"got n = {n}; at least {LEAST_IMAGES} pictures are needed")
        started = time.monotonic()
        asked, of_class = asked_labels(generator, self._manifest, n, seed)
        made: list[Tensor] = []
        for start in range(0, n, _MADE_AT_ONCE):
            if should_stop is not None and should_stop():
                raise Stopped("stopped while measuring; nothing was kept")
            if made and within_s is not None and time.monotonic() - started > within_s:
                break
            part = range(start, min(start + _MADE_AT_ONCE, n))
            labels = [None] * len(part) if asked is None else asked[part.start : part.stop].tolist()
            made.append(generator.render(*latents(generator, [seed + index for index in part], labels)))
        images = torch.cat(made)
        return self._scores(images, None if of_class is None else of_class[: len(images)], seed, started)

    def floor(self, n: int = QUICK_N, seed: int = 0, *, labelled: bool = True) -> QuickScores:
        """What real pictures score in the place of generated ones: the best to hope for. Taken once, then remembered.

        Args:
            n: pictures; where fewer real ones are left, these are taken, and the scores say how many.
            seed: decides which pairs are looked at.
            labelled: whether pairs are of one class; give False for a generator that takes no labels.
        """
        key = (min(n, len(self._control)), seed, labelled and self._control_labels is not None)
        if key not in self._floors:
            labels = self._control_labels[: key[0]] if key[2] and self._control_labels is not None else None
            self._floors[key] = self._scores(self._control[: key[0]], labels, seed, time.monotonic())
        return self._floors[key]

    def _scores(self, images: Tensor, labels: Tensor | None, seed: int, started: float) -> QuickScores:
        """The scores of uint8 [N, C, H, W], and of labels, int64 [N], where pairs are to be of one class."""
        features, _ = self.extractor.read(images)
        mean, covariance = moments(features)
        pairs = mean_pairwise_similarity(images, labels, random=derived_generator(seed, "pairs"), pairs=PAIRS)
        return QuickScores(
            fd_domain=frechet_distance_of_moments(mean, covariance, *self._reference_moments),
            kid=polynomial_mmd(features, self._reference),
            coverage=covered_share(self._reference, self._reference_radii, features),
            ms_ssim=pairs,
            diversity=_mean_distance(features) / self._reference_apart,
            copies=float((nearest(features, self._study) < self._copy_radius).double().mean()),
            n=len(images),
            n_reference=len(self._reference),
            seed=seed,
            extractor_sha256=self.extractor.sha256,
            took_s=time.monotonic() - started,
        )


def _mean_distance(features: Tensor) -> float:
    """The mean distance between two different rows of [N, F], over the first few."""
    return float(torch.pdist(features[:MOST_PAIRED]).mean().clamp_min(1e-12))
