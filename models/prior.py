"""What a generator's latents are really like: a Gaussian mixture, fitted once the encoder has learnt where pictures lie.

A variational autoencoder is trained as if its latents were standard normal, but the pictures it encodes fill that space
unevenly, and what is developed from the holes between them is a blur. So the density of the encoded pictures is estimated
afterwards, and latents are drawn from that.

Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, arXiv:1903.12436, §4 (ex-post density estimation).
They fit ten components with full covariances; here the likelihood of held-out pictures chooses how many, whether their
covariances are full, and whether there is anything to be gained over N(0, I) at all. Each class has a mixture of its own.

A component of a dozen pictures cannot know D (D + 1) / 2 covariances. So each component's covariance S_k is drawn towards a
common one, S, as if p more pictures had been seen that are spread so:

    (n_k S_k + p S) / (n_k + p),     n_k the component's pictures,

as Bayes does under an inverse Wishart prior (Fraley and Raftery 2007, Bayesian Regularization for Normal Mixture Estimation and
Model-Based Clustering). S is the covariance of all the class's points, or the components' mean covariance (where they lie
far apart, the first says little about one of them). Held-out pictures choose S and p too. So many components pay where few did.

Shapes: N pictures, D latent, M components of all classes together, n points of one class.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LEAST_IMAGES = 20  # of a class; a mixture of fewer would be guesswork
IMAGES_A_COMPONENT = 10  # at least, on average
BORROWED = (8, 32, 128)  # pictures spread in the common way that a component's covariance may count beside its own
POINTS = 4000  # that a class should give; with fewer images, several are drawn from each posterior
MOST_DRAWS = 4  # from one posterior
HELD_OUT = 0.1  # share of a class's images that judges
REGULARISATION = 1e-2  # added to each variance; standard normal latents have 1
MOST_WORK = (
    1_200_000_000  # components x points x D^2: what one iteration multiplies; with all 40 it is some seconds a class
)
ITERATIONS = 40  # of expectation and maximisation, at most
TOLERANCE = 1e-2  # nats a point that another iteration must gain
STANDARD_ERRORS = 1  # by which a larger mixture must explain held-out pictures better, or it is luck

log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """One shape of mixture to try."""

    components: int
    covariance: Literal["diag", "full"]


#: In the order they are tried, for as long as more components gain: for a checkpoint in passing, and for a training's end.
QUICK = (Candidate(1, "diag"), Candidate(1, "full"), Candidate(4, "full"), Candidate(16, "full"))
THOROUGH = (*QUICK, Candidate(64, "full"))


@dataclass(frozen=True)
class MixturePrior:
    """Gaussian mixtures over latents: one for each class, or a single one."""

    weights: Tensor  # float [M]; those of a class sum to 1
    owners: Tensor  # int64 [M], ascending: the class that a component belongs to; all 0 without classes
    means: Tensor  # float [M, D]
    scales: Tensor  # float [M, D, D], lower triangular: covariance = scale @ scale.T

    @classmethod
    def standard(cls, latent_dim: int, classes: int = 0) -> MixturePrior:
        """N(0, I), for each class alike."""
        count = max(1, classes)
        return cls(
            weights=torch.ones(count),
            owners=torch.arange(count),
            means=torch.zeros(count, latent_dim),
            scales=torch.eye(latent_dim).repeat(count, 1, 1),
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, latent_dim: int, classes: int) -> MixturePrior:
        """What `tensors` gave.

        Raises:
            ValueError: a tensor is missing, or they do not fit each other, the latents or the classes.
        """
        names = {field.name for field in fields(cls)}
        if tensors.keys() != names:
            raise ValueError(f"a prior has {', '.join(sorted(names))}, not {', '.join(sorted(tensors))}")
        prior = cls(**tensors)
        count = len(prior.weights)
        expected = {"owners": (count,), "means": (count, latent_dim), "scales": (count, latent_dim, latent_dim)}
        for name, shape in expected.items():
            if tensors[name].shape != shape:
                raise ValueError(f"a prior's {name} should be of shape {shape}, not {tuple(tensors[name].shape)}")
        for name, tensor in tensors.items():
            if tensor.is_floating_point() != (name != "owners"):
                raise ValueError(f"a prior's {name} cannot be of {tensor.dtype}")
        if sorted(set(prior.owners.tolist())) != list(range(max(1, classes))):
            raise ValueError(f"a prior for {classes} classes does not have components for each")
        return prior

    def tensors(self) -> dict[str, Tensor]:
        """All that has to be kept, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def components(self, label: int | None) -> int:
        """How many a class has."""
        return int((self.owners == (label or 0)).sum())

    def draw(self, noise: Tensor, uniform: float, label: int | None) -> Tensor:
        """Turn standard normal noise into a latent of this prior.

        One picture at a time and in double precision, so that company cannot change a bit of it.

        Args:
            noise: float [D], standard normal.
            uniform: [0, 1), chooses the component.
            label: the class; None without classes.

        Returns:
            the latent, float [D].
        """
        chosen = self._component(uniform, label)
        latent: Tensor = self.means[chosen].double() + (self.scales[chosen].double() * noise.double()).sum(dim=1)
        return latent.float()

    def between(self, noise: Tensor, uniforms: tuple[float, float], weight: float, label: int | None) -> Tensor:
        """Turn noise into a latent on the way from one component to another, whose means and scales are averaged.

        Args:
            noise: float [D], as between the noises of the two ends.
            uniforms: what chooses the component of either end, as `draw` takes it.
            weight: 0 to 1; at 0 and at 1 this is what `draw` gives, to the bit.
            label: the class; None without classes.

        Returns:
            the latent, float [D].
        """
        first, second = (self._component(uniform, label) for uniform in uniforms)
        mean = (1 - weight) * self.means[first].double() + weight * self.means[second].double()
        scale = (1 - weight) * self.scales[first].double() + weight * self.scales[second].double()
        latent: Tensor = mean + (scale * noise.double()).sum(dim=1)
        return latent.float()

    def log_density(self, latents: Tensor) -> Tensor:
        """ln p(z) in nats, float64 [n], of latents [n, D] under a prior of one class."""
        latents, each = latents.double(), []
        for weight, mean, scale in zip(self.weights.double(), self.means.double(), self.scales.double(), strict=True):
            standard = torch.linalg.solve_triangular(scale, (latents - mean).T, upper=False)  # (D, n)
            volume = scale.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
            each.append(weight.log() - volume - 0.5 * standard.square().sum(dim=0))
        return torch.stack(each).logsumexp(dim=0)

    def _component(self, uniform: float, label: int | None) -> Tensor:
        own = torch.nonzero(self.owners == (label or 0))[:, 0]
        steps = self.weights[own].double().cumsum(0)
        place = int(torch.searchsorted(steps, torch.tensor(uniform).double() * steps[-1], right=True))
        return own[min(place, len(own) - 1)]


def fit_prior(
    means: Tensor,
    deviations: Tensor,
    labels: Tensor | None,
    *,
    classes: int,
    seed: int,
    candidates: Sequence[Candidate] = QUICK,
) -> tuple[MixturePrior, tuple[str, ...]]:
    """Fit mixtures to what an encoder says of pictures.

    Args:
        means: of the posteriors q(z | x), float [N, D].
        deviations: their standard deviations, float [N, D].
        labels: the pictures' classes, int64 [N]; None without classes.
        classes: how many there are; 0 without.
        seed: decides what is drawn from the posteriors, what is held out, and where each fit starts.
        candidates: what to try.

    Returns:
        the prior, and what its owner should know about it: where there was too little to fit, in sentences.
    """
    latent_dim = means.shape[1]
    means, deviations = means.double().cpu(), deviations.double().cpu()
    parts, notes, poor = [], [], []
    for owner in range(max(1, classes)):
        own = torch.arange(len(means)) if labels is None else torch.nonzero(labels.cpu() == owner)[:, 0]
        if len(own) < LEAST_IMAGES:
            poor.append(len(own))
            parts.append(MixturePrior.standard(latent_dim))
        else:
            parts.append(_fitted(means[own], deviations[own], seed, candidates))
    if poor:
        whose = "the latents" if not classes else f"the latents of {len(poor)} of {classes} classes"
        counts = f"{min(poor)}" if min(poor) == max(poor) else f"{min(poor)} to {max(poor)}"
        notes.append(
            f"{whose} are drawn from N(0, I): {counts} images are too few to learn a better prior from, give at least "
            f"{LEAST_IMAGES}; pictures will be less sharp"
        )
    for note in notes:
        log.warning(note)
    merged = MixturePrior(
        weights=torch.cat([part.weights for part in parts]),
        owners=torch.cat([torch.full((len(part.weights),), owner) for owner, part in enumerate(parts)]),
        means=torch.cat([part.means for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
    )
    return merged, tuple(notes)


def _fitted(means: Tensor, deviations: Tensor, seed: int, candidates: Sequence[Candidate]) -> MixturePrior:
    """The candidate under which held-out pictures are likeliest, fitted to the others; N(0, I) when none is clearly better."""
    count, latent_dim = means.shape
    source = torch.Generator(device="cpu").manual_seed(seed)
    order = torch.randperm(count, generator=source)
    draws = min(MOST_DRAWS, math.ceil(POINTS / count))
    noise = torch.randn(draws, count, latent_dim, generator=source, dtype=torch.float64)
    points = means + deviations * noise  # (draws, n, D)
    held = max(2, round(count * HELD_OUT))
    judging = points[:, order[:held]].flatten(0, 1)  # (draws * held, D)
    learning = points[:, order[held:]].flatten(0, 1)

    affordable = MOST_WORK // (len(learning) * latent_dim**2)
    most, tried = max(1, min((count - held) // IMAGES_A_COMPONENT, affordable)), 0  # components
    best, whole = MixturePrior.standard(latent_dim), torch.eye(latent_dim, dtype=torch.float64)
    best_scores = best.log_density(judging)  # nats, of each point
    for wanted, covariance in candidates:
        components = min(wanted, most)
        if components < wanted and components == tried:
            break
        tried = components
        weights, centres, spreads = _mixture(learning, components, covariance, seed)
        variants = (
            _prior(weights, centres, variant) for variant in _borrowing(spreads, weights * (count - held), whole)
        )
        scored = ((variant, variant.log_density(judging)) for variant in variants)  # one at a time: they may be large
        likeliest, scores = max(scored, key=lambda pair: float(pair[1].mean()))
        gains = (scores - best_scores).view(draws, held).mean(dim=0)  # of each picture
        if gains.mean() > STANDARD_ERRORS * gains.std(correction=0) / math.sqrt(held):
            best, best_scores = likeliest, scores
            whole = spreads[0] if components == 1 else whole
        elif components > 1:
            break  # still more would only remember more
    return best


def _mixture(
    points: Tensor, components: int, covariance: Literal["diag", "full"], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [M], means [M, D] and covariances [M, D, D] of a mixture fitted to points [n, D]."""
    # It takes a second to load, and who only samples never needs it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    mixture = GaussianMixture(
        components,
        covariance_type=covariance,
        reg_covar=REGULARISATION,
        max_iter=ITERATIONS,
        tol=TOLERANCE,
        init_params="k-means++",
        random_state=seed % 2**32,
    )
    # One thread: the same sums on every machine, and no waiting for cores that training's own threads hold.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it has after ITERATIONS is judged like any other
        mixture.fit(points.numpy())
    weights, means, spreads = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    return weights, means, torch.diag_embed(spreads) if covariance == "diag" else spreads


def _borrowing(spreads: Tensor, pictures: Tensor, whole: Tensor) -> Iterator[Tensor]:
    """Covariances [M, D, D] of components of so many pictures, [M]: as they are, and drawn towards what they have in common.

    Args:
        spreads: float [M, D, D].
        pictures: float [M].
        whole: the covariance of all points together, [D, D].
    """
    yield spreads
    if len(spreads) == 1:
        return
    mean = (pictures[:, None, None] * spreads).sum(dim=0) / pictures.sum()
    for common in (whole, mean):
        for borrowed in BORROWED:
            own = (pictures / (pictures + borrowed))[:, None, None]
            yield own * spreads + (1 - own) * common


def _prior(weights: Tensor, means: Tensor, covariances: Tensor) -> MixturePrior:
    """A fit of one class."""
    return MixturePrior(
        weights=weights.float(),
        owners=torch.zeros(len(weights), dtype=torch.int64),
        means=means.float(),
        scales=torch.linalg.cholesky(covariances).float(),
    )
