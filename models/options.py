"""The options of every kind, with bounds and defaults. This module imports no PyTorch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Loss = Literal["bce", "hinge", "wasserstein", "relativistic"]
Penalty = Literal["none", "r1", "r1-r2", "wgan-gp"]
PenaltyForm = Literal["exact", "finite-difference"]
Augmentation = Literal["none", "translation", "translation-cutout", "colour-translation-cutout"]
Schedule = Literal["constant", "cosine", "plateau"]
BlockStyle = Literal["auto", "dense", "grouped"]
Precision = Literal["auto", "fp32", "bf16"]
OnTrouble = Literal["note", "stop", "rollback"]
FrozenLayers = Annotated[
    int | None,
    Field(
        ge=0,
        le=16,
        description="Lowest layers of the discriminator that stay as they are where a training begins with another model's "
        "weights (FreezeD). None: half of them there, 0 otherwise.",
    ),
]

#: What a training began with that began before these options were there, where that is not their default.
AS_BEFORE = {"precision": "fp32"}
#: Options that may be left open (`auto`) until a training begins (`models.choosing`), and what they are where nobody chose.
OPEN = {"block": "dense", "precision": "fp32"}
#: Options that decide which weights there are, and in what shapes; the second, those of discriminators alone.
GENERATOR_SHAPE = frozenset({"latent_dim", "base_channels", "block"})
DISCRIMINATOR_SHAPE = frozenset({"discriminators", "spectral_norm", "minibatch_stddev", "discriminator_channels"})


class TrainOptions(BaseModel):
    """The options that the training loop itself reads, common to every kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    latent_dim: int = Field(100, ge=1, le=1024, description="Numbers in the latent that one picture is developed from.")
    conditional: bool | None = Field(
        None, description="Learn the labels, so that one can be asked for. None: when the data set has labels."
    )
    batch_size: int = Field(64, ge=2, le=1024, description="Images in one training step.")
    mirror: bool = Field(
        False, description="Flip each image left to right half of the time. Wrong for letters and digits."
    )
    ema_halflife_images: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Images after which a weight's share in the averaged generator has halved; never more than 5 % of the "
        "images seen so far, so that short runs do not keep their beginnings. 0 keeps no average.",
    )
    schedule: Schedule = Field(
        "constant",
        description="How Adam's step size goes over the budget: constant, cosine (falls to a hundredth at the end), or plateau "
        "(halves whenever the loss of the first phase has stopped falling).",
    )
    precision: Precision = Field(
        "auto",
        description="What the networks compute with while they learn: fp32, bf16 (weights, losses and penalties stay fp32), or "
        "auto: bf16 on a GPU that is clearly faster with it, tried for a few steps.",
    )


class GanOptions(TrainOptions):
    """What adversarial kinds share: the game, and remedies against its troubles."""

    base_channels: int = Field(
        64,
        ge=4,
        le=256,
        description="Width of both networks (ngf = ndf); half of it trains about three times as fast on a CPU.",
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=0.1,
        description="Adam's step size for the generator, and for the discriminator where it has none.",
    )
    discriminator_learning_rate: float | None = Field(
        None, gt=0, le=0.1, description="Adam's step size for the discriminator. None: the generator's."
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the mean gradient.")
    loss: Loss = Field(
        "bce",
        description="Of the game: bce (classic), hinge, wasserstein, or relativistic (each fake against a real picture).",
    )
    penalty: Penalty = Field(
        "none",
        description="On the discriminator's slope: r1 at real pictures, r1-r2 also at fakes, wgan-gp between them, or none.",
    )
    gamma: float = Field(
        1.0, ge=0, le=1000, description="Weight of the penalty: gamma / 2 for r1 and r1-r2, gamma for wgan-gp."
    )
    penalty_every: int = Field(
        1, ge=1, le=64, description="Steps from one penalty to the next, each then that much heavier."
    )
    penalty_form: PenaltyForm = Field(
        "exact",
        description="How r1 and r1-r2 get slopes: exact by double backpropagation, or finite-difference in random directions.",
    )
    augment: Augmentation = Field(
        "none", description="What the discriminator sees real and generated pictures through, so that few last longer."
    )
    discriminators: int = Field(
        1, ge=1, le=4, description="Discriminators that judge, each through an augmentation of its own."
    )
    spectral_norm: bool = Field(
        False, description="Bound each layer of the discriminator to a Lipschitz constant of 1."
    )
    minibatch_stddev: bool = Field(
        False, description="Show the discriminator how much the pictures of a batch differ, against mode collapse."
    )
    mode_seeking: float = Field(
        0.0, ge=0, le=100, description="Weight of a term that keeps pictures of different latents apart. 0: none."
    )
    freeze_layers: FrozenLayers = None


class DcganOptions(GanOptions):
    """Options of `gan-dcgan`; the defaults are the paper's."""


class R3Options(GanOptions):
    """Options of `gan-r3`."""

    latent_dim: int = Field(64, ge=1, le=1024, description="Numbers in the latent that one picture is developed from.")
    base_channels: int = Field(48, ge=4, le=256, description="Width of both networks where pixels are most.")
    learning_rate: float = Field(
        5e-4,
        gt=0,
        le=0.1,
        description="Adam's step size for the generator, and for the discriminator where it has none.",
    )
    beta1: float = Field(0.0, ge=0, lt=1, description="Adam's decay of the mean gradient.")
    loss: Loss = Field(
        "relativistic",
        description="Of the game: bce (classic), hinge, wasserstein, or relativistic (each fake against a real picture).",
    )
    penalty: Penalty = Field(
        "r1-r2",
        description="On the discriminator's slope: r1 at real pictures, r1-r2 also at fakes, wgan-gp between them, or none.",
    )
    penalty_every: int = Field(
        4, ge=1, le=64, description="Steps from one penalty to the next, each then that much heavier."
    )
    schedule: Schedule = Field(
        "cosine", description="How Adam's step size, beta2 and gamma go over the budget; see the kind's source."
    )
    block: BlockStyle = Field(
        "auto",
        description="3x3 convolutions within blocks: dense, grouped, or auto (whichever is faster on the device).",
    )
    label_ramp_images: int = Field(
        20_000,
        ge=0,
        le=100_000_000,
        description="Images over which the discriminator comes to heed labels fully. 0: from the start.",
    )
    label_loss: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight with which the discriminator also learns to tell real pictures' labels, so that pictures are more "
        "often what was asked for. 0: it need not.",
    )


class FewshotOptions(GanOptions):
    """Options of `gan-fewshot`."""

    latent_dim: int = Field(64, ge=1, le=1024, description="Numbers in the latent that one picture is developed from.")
    base_channels: int = Field(32, ge=4, le=256, description="Width of both networks where pixels are most.")
    batch_size: int = Field(16, ge=2, le=1024, description="Images in one training step.")
    loss: Loss = Field(
        "hinge",
        description="Of the game: bce (classic), hinge, wasserstein, or relativistic (each fake against a real picture).",
    )
    augment: Augmentation = Field(
        "colour-translation-cutout",
        description="What the discriminator sees real and generated pictures through, so that few last longer.",
    )
    mode_seeking: float = Field(
        0.1, ge=0, le=100, description="Weight of a term that keeps pictures of different latents apart. 0: none."
    )
    reconstruction: float = Field(
        1.0, ge=0, le=100, description="Weight of the discriminator's redrawing of what it sees. 0: it need not."
    )


class VaeSigmaOptions(TrainOptions):
    """Options of `vae-sigma`."""

    latent_dim: int = Field(64, ge=1, le=512, description="Numbers in the latent that one picture is developed from.")
    base_channels: int = Field(
        32,
        ge=4,
        le=256,
        description="Width of both networks; twice as much learns finer detail at a third of the speed.",
    )
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="Adam's step size.")
    kl_warmup_images: int = Field(
        10_000,
        ge=0,
        le=100_000_000,
        description="Images over which the weight of the KL divergence rises from 0 to 1. 0: full weight at once.",
    )
    free_nats: float = Field(
        0.05,
        ge=0,
        le=10,
        description="Free bits: the KL divergence below which no number of the latent is pushed, in nats. 0: none are free.",
    )


class VaeGanOptions(VaeSigmaOptions):
    """Options of `vae-gan`."""

    batch_size: int = Field(32, ge=2, le=1024, description="Images in one training step.")
    discriminator_channels: int = Field(32, ge=4, le=256, description="Width of the patch discriminator.")
    discriminator_learning_rate: float = Field(
        4e-4, gt=0, le=0.1, description="Adam's step size for the patch discriminator."
    )
    laplacian_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="How strongly edges of every scale are compared: its gradient's size against the likelihood's. 0: not.",
    )
    adversarial_weight: float = Field(
        1.0, ge=0, le=100, description="The adversarial gradient's size against that of all the rest. 0: no adversary."
    )
    adversary_from: float = Field(
        0.1, ge=0, le=1, description="Share of the budget after which the adversary's voice begins to count."
    )
    gamma: float = Field(1.0, ge=0, le=1000, description="Weight of R1 and R2 on the patch discriminator (gamma / 2).")
    penalty_every: int = Field(
        8, ge=1, le=64, description="Steps from one penalty to the next, each then that much heavier."
    )
    freeze_layers: FrozenLayers = None
