"""What to train when nobody says: `auto` picks kind, preset, augmentation and batch, and says why.

It looks at the data (how many pictures, how large, labelled or not), lets its candidate take a few steps on the device, and
works out how often that would see every picture within the budget. The rules are what bench/training.py measured, not taste;
docs/benchmarks.md has the figures.

Options that are `auto` themselves (gan-r3's block, the precision) are settled here too, by the same few steps. What comes out
is a kind and complete options, so that a training that goes on later does not choose again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from models.catalog import AUTO, inherited_options, kind, parse_options
from models.manifest import Manifest
from models.objective import Batch, Shape
from models.options import AS_BEFORE, OPEN, R3Options, TrainOptions
from models.precision import candidates, fastest
from models.registry import build_objective

#: Pictures, below which `vae-gan` stays ahead, by side. FD-domain of both after 180 s, 32 px: tiles-32 (2,300) 8.8 and 15,
#: fashion-mnist (20,000) 4.5 and 3.4. 64 px: fewshot-hands (180) 33 to 59, and 60 to 90 in three runs of `gan-r3`'s quick
#: preset, which had seen each 200 times; produce-64 (2,900) 106 and 13.
FEW_IMAGES = {32: 5_000, 64: 1_000}
MANY_IMAGES = 5_000_000  # of a budget, from which the wider networks pay, as far as anybody knows
WIDE: int = R3Options.model_fields["base_channels"].default
#: Over the data, from which a discriminator has seen it all, as far as anybody knows. At 20 (tiles-32) and at 200
#: (fewshot-hands, where pictures came out more alike) augmentation cost more than it gave.
SCARCE_PASSES = 1_000
#: Pictures that `gan-r3`'s preset `quick` can see within the budget, below which `vae-gan` shows as much in the same time or
#: more, by side. FD-domain of both at 32 px, fashion-mnist: 53 and 33 after 8,000, 24 and 14 after 21,000, 5.9 and 7.3 after
#: 74,000, 3.4 and 4.5 after 98,000. At 64 px (produce-64): 61 and 292 after 11,000, 17 and about 100 after 42,000.
SHORT_IMAGES = {32: 50_000, 64: 6_000}
STEPS = 20  # that a candidate is timed by
LONGEST_TRIAL_S = 6.0  # for one candidate, however few steps that is
TRIAL_SHARE = 0.01  # of a budget, which a candidate may take likewise
LEAST_TRIAL_S = 0.5  # that a share has to come to, below which nothing is tried that can be left alone


class Trials:
    """How fast candidates are here; each is timed once, however often it is asked for.

    Args:
        manifest: of what will be learnt.
        resolution: pixels on a side.
        device: where it will be learnt.
        budget_images: as in TrainingConfig.
        budget_s: likewise.
    """

    def __init__(
        self,
        manifest: Manifest,
        resolution: int,
        device: torch.device,
        budget_images: int | None,
        budget_s: float | None,
    ) -> None:
        self.manifest, self.resolution, self.device = manifest, resolution, device
        self.budget_images, self.budget_s = budget_images, budget_s
        self.longest_s = LONGEST_TRIAL_S if budget_s is None else min(LONGEST_TRIAL_S, TRIAL_SHARE * budget_s)
        self._found: dict[tuple[str, TrainOptions], float] = {}

    def pay(self, options: TrainOptions) -> bool:
        """Whether the budget is large beside a trial; one that nobody has set will be refused."""
        if self.budget_images is None and self.budget_s is None:
            return False
        few = self.budget_images is not None and STEPS * options.batch_size > TRIAL_SHARE * self.budget_images
        return not few and self.longest_s >= LEAST_TRIAL_S

    def images_per_s(self, kind_name: str, options: TrainOptions) -> float:
        """As it would train without a choice, where options are open."""
        settled = {name: value for name, value in OPEN.items() if getattr(options, name, None) == "auto"}
        options = options.model_copy(update=settled)
        asked = kind_name, options
        if asked not in self._found:
            shape = shape_of(options, self.manifest, self.resolution)
            self._found[asked] = images_per_s(kind_name, options, shape, self.device, longest_s=self.longest_s)
        return self._found[asked]


@dataclass(frozen=True)
class Inheritance:
    """What is known of the model that a training begins with, or began with."""

    kind: str
    options: Mapping[str, Any]
    judged: bool = True  # whether its discriminator comes along


@dataclass(frozen=True)
class Choice:
    """What will be trained."""

    kind: str
    options: TrainOptions  # complete; nothing in them is `auto`
    reasons: tuple[str, ...]  # sentences, for people


def choose(
    wanted: str,
    options: Mapping[str, Any],
    manifest: Manifest,
    resolution: int,
    device: torch.device,
    *,
    preset: str | None = None,
    budget_images: int | None = None,
    budget_s: float | None = None,
    begun: Mapping[str, Any] | None = None,
    inheritance: Inheritance | None = None,
) -> Choice:
    """Settle kind and options.

    Args:
        wanted: a kind, or AUTO.
        options: the user's; with AUTO those that every kind has, and they are kept whatever is chosen.
        manifest: of what will be learnt.
        resolution: pixels on a side.
        device: where it will be learnt.
        preset: of the kind; None: its defaults. AUTO chooses one.
        budget_images: as in TrainingConfig.
        budget_s: likewise.
        begun: the configuration of the training that goes on, as JSON: what was chosen then stays. None: it begins now.
        inheritance: of the model to begin with, whose kind and options are taken where nothing else is asked for. None: fresh
            weights.

    Raises:
        OptionError: kind, preset and options do not fit together.
    """
    trials = Trials(manifest, resolution, device, budget_images, budget_s)
    if inheritance is not None:
        name, theirs = inheritance.kind, inheritance.options
        own_options = inherited_options(wanted, options, name, theirs, preset=preset, judged=inheritance.judged)
        reason = f"{name}, like the model that it begins with"
        choice = Choice(name, own_options, (reason,))
    elif begun is not None and wanted == AUTO:
        return Choice(begun["kind"], _as_begun(begun), ())
    else:
        choice = Choice(wanted, parse_options(wanted, options, preset), ())
        if wanted == AUTO:
            own = choice.options.model_dump(exclude_unset=True)
            choice = _chosen(own, trials)
    if begun is not None and choice.kind == begun["kind"]:
        choice = _settled_as(choice, _as_begun(begun))
    return _open_settled(choice, trials)


def _chosen(own: Mapping[str, Any], trials: Trials) -> Choice:
    name, preset = "gan-r3", "quick"
    manifest, resolution = trials.manifest, trials.resolution
    candidate = parse_options(name, own, preset)
    shape = shape_of(candidate, manifest, resolution)
    kind(name).check(shape.resolution, shape.channels)
    found = f"{manifest.count:,} {'labelled' if shape.classes else 'unlabelled'} pictures of {resolution} px"
    side = 32 if resolution < 64 else 64
    if manifest.count < FEW_IMAGES[side]:  # however fast the candidate is: it need not be tried
        reason = f"vae-gan: {found}; gan-r3 needs {FEW_IMAGES[side]:,} pictures to get ahead"
        return Choice("vae-gan", parse_options("vae-gan", own), (reason,))
    spent = math.inf if trials.budget_images is None else trials.budget_images
    speed = ""
    if trials.budget_s is not None:
        settled = _open_settled(Choice(name, candidate, ()), trials)
        rate = trials.images_per_s(name, settled.options)
        spent, speed = min(spent, rate * trials.budget_s), f" at {rate:,.0f} images/s"
    passes = spent / manifest.count
    found += f", each seen {passes:,.0f} times{speed}"
    needed = SHORT_IMAGES[side]
    if spent < needed:
        reason = f"vae-gan: {found} by gan-r3, which needs {needed:,} looks at pictures to get ahead"
        return Choice("vae-gan", parse_options("vae-gan", own), (reason,))
    reasons, chosen = [f"{name}, preset {preset}: {found}"], dict(own)
    if passes >= SCARCE_PASSES:
        chosen.setdefault("augment", "translation")
        reasons.append(f"augment: translation, from {SCARCE_PASSES} times on")
    if spent >= MANY_IMAGES:
        chosen.setdefault("base_channels", WIDE)
        reasons.append(f"base_channels {WIDE}: {MANY_IMAGES:,} images are enough for wide networks")
    return Choice(name, parse_options(name, chosen, preset), tuple(reasons))


def images_per_s(
    kind_name: str, options: TrainOptions, shape: Shape, device: torch.device, *, longest_s: float = LONGEST_TRIAL_S
) -> float:
    """How fast a kind would train here, by a few steps on random pictures; touches no random state but its own.

    It takes STEPS steps, or as many as `longest_s` seconds allow, and one at least.

    Raises:
        InvalidOption: the kind does not make such pictures.
    """
    kind(kind_name).check(shape.resolution, shape.channels)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        objective = build_objective(kind_name, options, shape, device)
        size, side = options.batch_size, shape.resolution
        images = (torch.rand(size, shape.channels, side, side) * 2 - 1).to(device)
        batch = Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            labels=torch.randint(shape.classes, (size,)).to(device) if shape.classes else None,
            latents=torch.randn(size, options.latent_dim).to(device),
            random=torch.Generator().manual_seed(0),
            fraction=1.0,  # everything that comes in later counts too
        )
        began, taken = 0.0, -1  # the first step is not counted: it allocates, and finds its convolutions
        while taken < STEPS and (taken < 1 or time.perf_counter() - began < longest_s):
            step = replace(batch, images_seen=(taken + 1) * size)  # what comes every few steps does here too
            for phase in objective.phases:
                phase.learn(step, precision=options.precision)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken += 1
            if taken == 0:
                began = time.perf_counter()
        return taken * size / (time.perf_counter() - began)


def shape_of(options: TrainOptions, manifest: Manifest, resolution: int) -> Shape:
    """What the networks are built for."""
    classes = 0 if options.conditional is False else len(manifest.classes or ())
    return Shape(resolution, manifest.channels, classes)


def _as_begun(begun: Mapping[str, Any]) -> TrainOptions:
    """The options of a training that goes on."""
    return parse_options(begun["kind"], AS_BEFORE | begun["options"])


def _settled_as(choice: Choice, begun: TrainOptions) -> Choice:
    """The same with what is open still as it was settled when the training began."""
    still = {name: getattr(begun, name) for name in OPEN if getattr(choice.options, name, None) == "auto"}
    return replace(choice, options=choice.options.model_copy(update=still))


def _open_settled(choice: Choice, trials: Trials) -> Choice:
    """The same with what was left open, gan-r3's block and the precision, chosen by its speed on this device."""
    choice = _settled(choice, trials, "block", ("dense", "grouped"), _fastest_block, " blocks")
    return _settled(choice, trials, "precision", candidates(trials.device), fastest)


def _settled(
    choice: Choice,
    trials: Trials,
    option: str,
    values: Sequence[str],
    best_of: Callable[[Mapping[str, float]], str],
    called: str = "",
) -> Choice:
    """The same with one option of these values, where it was left open and trying them pays."""
    if getattr(choice.options, option, None) != "auto":
        return choice
    if len(values) == 1 or not trials.pay(choice.options):
        return replace(choice, options=choice.options.model_copy(update={option: OPEN[option]}))
    variants = {value: choice.options.model_copy(update={option: value}) for value in values}
    speeds = {value: trials.images_per_s(choice.kind, options) for value, options in variants.items()}
    best = best_of(speeds)
    reason = f"{best}{called}: " + ", ".join(f"{value} {speed:,.0f} images/s" for value, speed in speeds.items())
    return Choice(choice.kind, variants[best], (*choice.reasons, reason))


def _fastest_block(images_per_s: Mapping[str, float]) -> str:
    return max(images_per_s, key=lambda style: images_per_s[style])
