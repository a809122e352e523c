"""All that changes while a kind is trained, and how it is kept and brought back.

What a step computes depends on the seed, the options and the data alone. Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models import checkpoint
from models.catalog import kind, parse_options
from models.checkpoint import Checkpoint, TrainingRecord
from models.config import TrainingConfig
from models.data import PreparedImages
from models.ema import ExponentialMovingAverage
from models.errors import BadCheckpoint, InvalidOption, TrainingDiverged
from models.evaluation.split import learnt_and_held_out
from models.freezing import freeze
from models.generator import Generator, GeneratorCard, load_weights
from models.means import Means
from models.objective import Batch, Discriminates, Encodes, Judges, Phase
from models.options import AS_BEFORE, TrainOptions
from models.origin import Origin
from models.plateau import Plateau
from models.prior import QUICK, THOROUGH, MixturePrior, fit_prior
from models.randomness import EndlessShuffle, derived_generator, derived_seed
from models.ranks import ALONE, Ranks
from models.registry import build_objective
from models.remedies import Rollback, remedied
from models.source import Source

QUICK_IMAGES = 2_000  # that a prior is fitted to in passing: a second or two
THOROUGH_IMAGES = 10_000  # at the end, at most
THOROUGH_SHARE = 0.1  # of the images seen; encoding one takes a sixth of what learning from it takes
LEAST_OF_A_CLASS = 50  # where it has as many, also when that makes more in all
ENCODED_AT_ONCE = 250
JUDGED_IMAGES = 256  # at most, of each sort, that a discriminator is asked about
LEAST_HELD_OUT = 8


class Training:
    """A kind in training on one device: networks, optimizers, average, random state, position in the data.

    Args:
        data: what to learn.
        config: what to train; the seed decides every weight and every draw.
        device: where to compute.
        ranks: this process's place among those that train together.

    Raises:
        OptionError: kind, options, resolution and data do not fit together.
        DataError: the data cannot be used at this resolution.
    """

    def __init__(
        self, data: PreparedImages, config: TrainingConfig, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        manifest = data.manifest
        kind(config.kind).check(config.resolution, manifest.channels)
        self.asked = config  # what was asked for; self.config has remedies in it
        self.ranks = ranks
        self._share = ranks.share(config.options.batch_size)
        self.classes = told_classes(config.options, manifest.classes)
        self.fingerprint = _fingerprint(data)
        self.channels = manifest.channels
        self.learnt, self.held_out = learnt_and_held_out(manifest, config.held_out)  # indices, int64 [n] each
        if config.held_out and min(len(self.learnt), len(self.held_out)) < LEAST_HELD_OUT:
            raise InvalidOption(
                "held_out",
                f"{config.held_out} of {len(data):,} images holds {len(self.held_out)} out",
                f"0, or a share that leaves {LEAST_HELD_OUT} on each side",
            )
        self.images = data.load(config.resolution, device)
        self.device = device
        self.origin: Origin | None = None  # what it began with; None: fresh weights
        self._source: Source | None = None  # the same at hand; None once it was brought back by a checkpoint
        self._begin(())

    def inherit(self, source: Source | None) -> None:
        """Begin with another model's weights, before the first step; None: with fresh ones.

        Raises:
            InvalidOption: they do not fit, or no layers can be frozen.
            BadCheckpoint: they are damaged.
        """
        wish: int | None = getattr(self.asked.options, "freeze_layers", None)
        if source is None:
            if wish:
                message = f"{wish} layers with fresh weights would never learn"
                raise InvalidOption("freeze_layers", message, "0, or a model to begin with (init_from)")
            return
        source.check(self.card)
        self.origin, self._source = source.origin(self.objective, self.classes, wish), source
        self._begin(())

    def _begin(self, rollbacks: Sequence[Rollback]) -> None:
        """Start at the beginning, with the remedies of these rollbacks."""
        self.rollbacks = tuple(rollbacks)
        self.config = config = replace(self.asked, options=remedied(self.asked.options, rollbacks))
        device = self.device
        self.images_seen = 0
        self.elapsed_s = 0.0
        self._prior: MixturePrior | None = None  # as last fitted
        self._notes: tuple[str, ...] = ()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derived_seed(config.seed, "weights"))
            self.objective = build_objective(config.kind, config.options, self.card.shape, device)
        self.order = EndlessShuffle(len(self.learnt), config.seed)
        self.average = ExponentialMovingAverage(
            self.objective.generator, halflife_images=config.options.ema_halflife_images
        )
        if self._source is not None:
            self._source.give(self.objective, self.average.network, self.classes)
        if self.origin is not None and isinstance(self.objective, Discriminates):
            freeze(self.objective.discriminators, self.origin.frozen_layers)
        self.random = derived_generator(config.seed, "steps")
        self.plateau = Plateau()
        self._loss_means, self._gauge_means = Means(), Means()  # since they were last read
        self._losses: dict[str, float] = {}  # as last read
        self._gauges: dict[str, float] = {}  # as last read

    @property
    def card(self) -> GeneratorCard:
        """What the generator is, as of now."""
        return GeneratorCard(
            kind=self.config.kind,
            options=self.config.options.model_dump(mode="json"),
            resolution=self.config.resolution,
            channels=self.channels,
            classes=self.classes,
            images_seen=self.images_seen,
            notes=(*self._notes, *self._told),
        )

    @property
    def _told(self) -> tuple[str, ...]:
        """What there is to tell of how it came here."""
        began = (self.origin.says,) if self.origin is not None else ()
        return (*began, *(rollback.says for rollback in self.rollbacks))

    @property
    def _inherited_images(self) -> int:
        """Images that the weights had seen before this training."""
        return self.origin.images_seen if self.origin is not None else 0

    def step(self) -> None:
        """Draw one batch and let every phase learn from it."""
        options = self.config.options
        batch = self._next_batch(options)
        self.objective.gauges.clear()
        for phase in self.objective.phases:
            losses = phase.learn(
                batch, share=self.plateau.share, precision=options.precision, reduce=self.ranks.average
            )
            self._loss_means.add(losses)
            if options.schedule == "plateau" and phase is self.objective.phases[0]:
                self.plateau.add(torch.stack(list(losses.values())).sum(), self.images_seen + options.batch_size)
        if self.ranks.count > 1:
            self._average_what_was_watched()
        self._gauge_means.add(self.objective.gauges)
        self.images_seen += options.batch_size
        seen = self._inherited_images + self.images_seen
        self.average.update(self.objective.generator, images_seen=seen, batch_size=options.batch_size)

    def _average_what_was_watched(self) -> None:
        """Give every rank the mean gauges, and the mean running statistics of batch normalisation.

        Batches are normalised by each rank's own statistics, as in DistributedDataParallel.
        """
        gauges = [gauge for gauge in self.objective.gauges.values() if isinstance(gauge, Tensor)]
        buffers = [buffer for phase in self.objective.phases for buffer in phase.module.buffers()]
        self.ranks.average([*gauges, *(buffer for buffer in buffers if buffer.is_floating_point())])

    def _next_batch(self, options: TrainOptions) -> Batch:
        """The next batch_size images of the endless shuffle, each mirrored or not, and fresh latents: this rank's share.

        What is drawn here is drawn for the whole batch, the same on every rank, so that their random states stay the same.
        """
        size, ranks = options.batch_size, self.ranks
        latents = torch.randn(size, options.latent_dim, generator=self.random)  # on the CPU: the same on every device
        images, labels = self.images.batch(self.learnt[self.order.at(self.images_seen, size)[self._share]])
        if options.mirror:
            mirrored = (torch.rand(size, generator=self.random) < 0.5)[self._share]
            images = torch.where(mirrored.to(self.device)[:, None, None, None], images.flip(3), images)
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            labels=None if self.classes is None else labels,
            latents=latents[self._share].to(self.device, non_blocking=True),
            random=self.random if ranks.count == 1 else self._own_random(),
            images_seen=self._inherited_images + self.images_seen,
            fraction=self.config.fraction(self.images_seen, self.elapsed_s),
            ranks=ranks.count,
        )

    def _own_random(self) -> torch.Generator:
        """Where one of several ranks draws from in this step, besides what all draw alike; begun anew in each step, so that no
        state of it has to be kept."""
        return derived_generator(self.config.seed, "step", self.images_seen, "rank", self.ranks.rank)

    def read_losses(self) -> dict[str, float]:
        """The mean losses since the last call; until the next step, those of the call before.

        Raises:
            TrainingDiverged: one of them is not finite.
        """
        self._losses = self._loss_means.read() or self._losses
        if not all(math.isfinite(loss) for loss in self._losses.values()):
            raise TrainingDiverged(self._losses, self.images_seen)
        return self._losses

    def read_gauges(self) -> dict[str, float]:
        """What else there is to watch: means since the last call, and each phase's learning rate as it is now.

        A gauge that is not finite is left out: a mean logit may overflow where every loss is still sound.
        """
        self._gauges = self._gauge_means.read() or self._gauges
        rates = {f"lr_{phase.name}": float(phase.optimizer.param_groups[0]["lr"]) for phase in self.objective.phases}
        return {name: value for name, value in {**self._gauges, **rates}.items() if math.isfinite(value)}

    @torch.no_grad()
    def overfitting(self) -> dict[str, float]:
        """How far held-out images are from those learnt from, in the discriminator's eyes: r_v of `models.trouble.overfitted`.

        Touches nothing that a step depends on. Empty where nothing is held out, or nothing judges.
        """
        count = min(JUDGED_IMAGES, len(self.held_out), len(self.learnt))
        if not count or not isinstance(self.objective, Judges):
            return {}
        source = derived_generator(self.config.seed, "held-out")
        chosen = self.learnt[torch.randperm(len(self.learnt), generator=source)[:count]]
        images, labels = self.images.batch(chosen)
        unseen, of_unseen = self.images.batch(self.held_out[:count])
        if self.classes is None:
            labels = of_unseen = None
        latents = torch.randn(count, self.config.options.latent_dim, generator=source).to(self.device)
        made = self.average.network(latents, labels)
        learnt, held_out, generated = (
            float(self.objective.judged(pictures.contiguous(memory_format=torch.channels_last), own).mean())
            for pictures, own in ((images, labels), (unseen, of_unseen), (made, labels))
        )
        apart = learnt - generated
        return {"D_held_out_logit": held_out, **({"r_v": (learnt - held_out) / apart} if apart > 0 else {})}

    def sampled(self) -> Generator:
        """The generator as a sampler would load it now; a prior that was fitted since the start still serves."""
        if self._prior is None:
            self._fit_prior(thorough=False)
        return Generator(self.average.network, self.card, self._prior)

    @torch.inference_mode()
    def _fit_prior(self, *, thorough: bool) -> None:
        """Fit the prior of a generator that encodes, touching nothing that a step depends on.

        What comes out follows from the seed, the data and the averaged weights alone.
        """
        network = self.average.network
        if not isinstance(network, Encodes):
            return
        most = min(THOROUGH_IMAGES, max(QUICK_IMAGES, int(self.images_seen * THOROUGH_SHARE)))
        source = derived_generator(self.config.seed, "prior")
        chosen = self._some_of_each_class(most if thorough else QUICK_IMAGES, source)
        means, deviations, labels = [], [], []
        for start in range(0, len(chosen), ENCODED_AT_ONCE):
            part = chosen[start : start + ENCODED_AT_ONCE]
            images, own = self.images.batch(part)
            if self.config.options.mirror:
                mirrored = torch.rand(len(part), generator=source) < 0.5
                images = torch.where(mirrored.to(self.device)[:, None, None, None], images.flip(3), images)
            own = None if self.classes is None else own
            mean, deviation = network.posterior(images.contiguous(memory_format=torch.channels_last), own)
            means.append(mean)
            deviations.append(deviation)
            labels += [] if own is None else [own]
        mean, deviation = torch.cat(means), torch.cat(deviations)
        if not (mean.isfinite().all() and deviation.isfinite().all()):
            raise TrainingDiverged(self._losses, self.images_seen)
        self._prior, self._notes = fit_prior(
            mean,
            deviation,
            torch.cat(labels) if labels else None,
            classes=len(self.classes or ()),
            seed=derived_seed(self.config.seed, "mixture"),
            candidates=THOROUGH if thorough else QUICK,
        )

    def _some_of_each_class(self, most: int, source: torch.Generator) -> Tensor:
        """Indices of about `most` images, int64 [n], as many of each class that the networks are told as there are."""
        order = self.learnt[torch.randperm(len(self.learnt), generator=source)]
        if self.classes is None or self.images.labels is None:
            return order[:most]
        labels = self.images.labels.cpu()[order]
        each = max(LEAST_OF_A_CLASS, most // len(self.classes))
        return torch.cat([order[labels == label][:each] for label in range(len(self.classes))])

    def save(self, run_dir: Path, *, thorough: bool = False, keep: Collection[Path] = ()) -> Path:
        """Write a checkpoint; returns its directory.

        Args:
            run_dir: the run's directory.
            thorough: take more time for what is not learnt step by step; for a training's end.
            keep: other checkpoints that are not dropped.

        Raises:
            TrainingDiverged: a weight is not finite, so that going on from here would be of no use.
            CheckpointError: it cannot be written.
        """
        state = self.state()
        if not torch.stack([tensor.isfinite().all() for tensor in state.values()]).all():
            raise TrainingDiverged(self._losses, self.images_seen)
        record = TrainingRecord(
            config=self.asked.to_json(),
            data=self.fingerprint,
            images_seen=self.images_seen,
            elapsed_s=self.elapsed_s,
            rollbacks=self.rollbacks,
            origin=self.origin,
        )
        self._fit_prior(thorough=thorough)
        return checkpoint.save(run_dir, record, state, self.average.network, self.card, self._prior, keep=keep)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that decides what the next step does."""
        state = {"random": self.random.get_state(), **_prefixed("average", self.average.network)}
        if self.config.options.schedule == "plateau":
            state["plateau"] = self.plateau.state()
        for phase in self.objective.phases:
            state |= _prefixed(f"{phase.name}.weights", phase.module)
            for index, values in phase.optimizer.state_dict()["state"].items():
                state |= {f"{phase.name}.optimizer.{index}.{key}": value for key, value in values.items()}
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    def restore(self, found: Checkpoint) -> None:
        """Go back to where a checkpoint was written, with the remedies that it was written with.

        Raises:
            BadCheckpoint: it is of another training.
        """
        self._check(found)
        self.origin, self._source = found.record.origin, None
        if found.record.rollbacks != self.rollbacks or self.origin is not None:
            self._begin(found.record.rollbacks)
        self._take(found)

    def roll_back(self, found: Checkpoint | None, rollbacks: Sequence[Rollback]) -> None:
        """Go back to where a checkpoint was written, or to the beginning, and on with these remedies.

        Raises:
            BadCheckpoint: it is of another training.
        """
        if found is not None:
            self._check(found)
        self._begin(rollbacks)
        if found is not None:
            self._take(found)

    def _check(self, found: Checkpoint) -> None:
        """Raise BadCheckpoint unless a checkpoint is of this training."""
        stored, wanted = {"held_out": 0.0, **found.record.config}, self.asked.to_json()
        if stored.get("kind") == self.asked.kind:
            # Read again, so that an option that came after the checkpoint has its default there too.
            stored["options"] = parse_options(self.asked.kind, AS_BEFORE | stored["options"]).model_dump(mode="json")
        for name in ("kind", "resolution", "options", "seed", "held_out"):
            if stored.get(name) != wanted[name]:
                raise BadCheckpoint(
                    f"{found.path} is of another training: {name} {stored.get(name)!r} there, {wanted[name]!r} asked for; "
                    "ask for the same, or train into an empty directory"
                )
        if found.record.data != self.fingerprint:
            raise BadCheckpoint(f"{found.path} was trained on other images; train into an empty directory")

    def _take(self, found: Checkpoint) -> None:
        """Take every tensor and count of a checkpoint."""
        path = found.path / checkpoint.STATE
        load_weights(self.average.network, _under("average.", found.state), path)
        for phase in self.objective.phases:
            load_weights(phase.module, _under(f"{phase.name}.weights.", found.state), path)
            _load_optimizer(phase, _under(f"{phase.name}.optimizer.", found.state), path)
        self.random.set_state(found.state["random"])
        if "plateau" in found.state:
            self.plateau.restore(found.state["plateau"])
        kept = Generator.load(found.path)
        self._prior, self._notes = kept.prior, tuple(note for note in kept.card.notes if note not in self._told)
        self.images_seen = found.record.images_seen
        self.elapsed_s = found.record.elapsed_s


def _fingerprint(data: PreparedImages) -> str:
    """A hash of every image's hash and label: the same images in the same order, whatever they are called now."""
    digest = hashlib.sha256(f"{data.manifest.resolution} {data.manifest.channels}".encode())
    for image in data.manifest.images:
        digest.update(f" {image.sha256} {image.label}".encode())
    return digest.hexdigest()


def told_classes(options: TrainOptions, classes: list[str] | None) -> list[str] | None:
    """The classes that the networks are told; None when they are told none."""
    if options.conditional and classes is None:
        raise InvalidOption(
            "conditional", "these images have no labels", "false, or images in one folder for each class"
        )
    return None if options.conditional is False else classes


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _load_optimizer(phase: Phase, state: Mapping[str, Tensor], path: Path) -> None:
    """Put averages of gradients back, in the memory layout of their weights: a fused optimizer walks both side by side."""
    weights = [weight for group in phase.optimizer.param_groups for weight in group["params"]]
    values: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in state.items():
            index, key = name.split(".", 1)
            weight = weights[int(index)]
            like_weight = tensor.shape == weight.shape
            placed = torch.empty_like(weight).copy_(tensor) if like_weight else tensor.to(weight.device)
            values.setdefault(int(index), {})[key] = placed
    except (ValueError, IndexError) as error:
        raise BadCheckpoint(f"{path} does not fit the optimizer of phase {phase.name}: {error}") from error
    phase.optimizer.load_state_dict({"state": values, "param_groups": phase.optimizer.state_dict()["param_groups"]})
