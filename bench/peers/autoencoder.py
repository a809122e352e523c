"""pythae's VAE, trained by its own trainer until the time is up, and sampled by its own samplers.

Two nets: those that pythae ships for pictures of this size, and compact ones of about our `vae-sigma`'s cost, since the shipped
ones are wide for a CPU.

Source: Chadebec, Vincent and Allassonnière 2022, Pythae, arXiv:2206.08309.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.celeba import Decoder_Conv_AE_CELEBA, Encoder_Conv_VAE_CELEBA
from pythae.models.nn.benchmarks.cifar import Decoder_Conv_AE_CIFAR, Encoder_Conv_VAE_CIFAR
from pythae.samplers import GaussianMixtureSampler, NormalSampler
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from bench.cells import Cell
from bench.child import Task, Trained
from models.data import PreparedImages

LATENT_DIM, BATCH, LEARNING_RATE = 64, 64, 1e-3
WIDTH = 32  # of the compact nets' first layer
MOST_FITTED = (
    10_000  # pictures that the mixture is fitted to: twice what it needs, and the wide nets take minutes for them
)
_SAMPLED_AT_ONCE = 250


class _TimeUp(Exception):
    """Ends pythae's training, whose own measure is whole epochs."""


class _Clock(TrainingCallback):  # type: ignore[misc] # untyped
    """Counts what was seen, and ends the training when the budget is spent."""

    def __init__(self, cell: Cell, images: int) -> None:
        self._cell = cell
        self._images = images  # of the set: the last batch of an epoch may be smaller
        self.seen, self.elapsed_s = 0, 0.0
        self._of_epoch = 0

    def on_train_begin(self, training_config: BaseTrainerConfig, **_: object) -> None:
        self._started = time.monotonic()

    def on_epoch_begin(self, training_config: BaseTrainerConfig, **_: object) -> None:
        self._of_epoch = 0

    def on_train_step_end(self, training_config: BaseTrainerConfig, **_: object) -> None:
        batch = min(BATCH, self._images - self._of_epoch)
        self._of_epoch += batch
        self.seen += batch
        self.elapsed_s = time.monotonic() - self._started
        if self._cell.spent(self.elapsed_s, self.seen):
            raise _TimeUp


class CompactEncoder(BaseEncoder):  # type: ignore[misc] # untyped
    """Strided convolutions down to 4 pixels, then mean and log-variance."""

    def __init__(self, channels: int, resolution: int) -> None:
        super().__init__()
        widths = _widths(resolution)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([channels, *widths]):
            layers += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.BatchNorm2d(wide), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Linear(16 * widths[-1], LATENT_DIM)
        self.log_covariance = nn.Linear(16 * widths[-1], LATENT_DIM)

    def forward(self, x: Tensor) -> ModelOutput:
        seen = self.layers(x)
        return ModelOutput(embedding=self.embedding(seen), log_covariance=self.log_covariance(seen))


class CompactDecoder(BaseDecoder):  # type: ignore[misc] # untyped
    """The encoder's mirror image; pictures in [0, 1]."""

    def __init__(self, channels: int, resolution: int) -> None:
        super().__init__()
        widths = _widths(resolution)[::-1]
        layers: list[nn.Module] = [nn.Linear(LATENT_DIM, 16 * widths[0]), nn.Unflatten(1, (widths[0], 4, 4))]
        for wide, narrow in pairwise([*widths, WIDTH]):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1)]
        layers += [nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, channels, 3, padding=1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


def train(task: Task) -> Trained:
    """Train pythae's VAE from memory, its best case, and sample it by a mixture of ten Gaussians and by N(0, I)."""
    cell, data = task.cell, PreparedImages.open(task.prepared)
    pictures = data.load(cell.resolution).pixels.float() / 255
    torch.manual_seed(cell.seed)
    vae = _vae(cell, data.manifest.channels)
    settings = BaseTrainerConfig(
        output_dir=str(task.directory / "pythae"),
        num_epochs=10**6,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH,
        seed=cell.seed,
        no_cuda=cell.device == "cpu",
    )
    clock = _Clock(cell, len(pictures))
    trainer = BaseTrainer(
        vae, BaseDataset(pictures, torch.ones(len(pictures))), training_config=settings, callbacks=[clock]
    )
    try:
        trainer.train()
    except _TimeUp:
        vae = trainer.model.eval()
    started = time.monotonic()
    mixture = GaussianMixtureSampler(vae)
    mixture.fit(pictures[torch.randperm(len(pictures))[:MOST_FITTED]])
    facts = {"parameters": sum(weight.numel() for weight in vae.parameters()), "fit_s": time.monotonic() - started}
    galleries = {
        name: _sampled(sampler, cell) for name, sampler in (("mixture", mixture), ("normal", NormalSampler(vae)))
    }
    return Trained(clock.seen, clock.elapsed_s, facts, galleries)


def _vae(cell: Cell, channels: int) -> VAE:
    resolution = cell.resolution
    config = VAEConfig(input_dim=(channels, resolution, resolution), latent_dim=LATENT_DIM)
    if cell.trainer == "pythae-compact":
        return VAE(config, CompactEncoder(channels, resolution), CompactDecoder(channels, resolution))
    shipped = {
        32: (Encoder_Conv_VAE_CIFAR, Decoder_Conv_AE_CIFAR),
        64: (Encoder_Conv_VAE_CELEBA, Decoder_Conv_AE_CELEBA),
    }
    encoder, decoder = (build(config) for build in shipped[resolution])
    if channels == 1:  # they are for RGB, whatever input_dim says: grey ends instead
        encoder.layers[0][0] = nn.Conv2d(1, encoder.layers[0][0].out_channels, 4, 2, 1)
        last = decoder.layers[-1][0]
        decoder.layers[-1][0] = nn.ConvTranspose2d(last.in_channels, 1, last.kernel_size, last.stride, last.padding)
    return VAE(config, encoder, decoder)


def _widths(resolution: int) -> list[int]:
    """Of the compact nets from the pixels inwards: doubled with every halving down to 4 pixels."""
    return [WIDTH * 2**power for power in range(resolution.bit_length() - 3)]


@torch.no_grad()
def _sampled(sampler: GaussianMixtureSampler | NormalSampler, cell: Cell) -> tuple[Tensor, float]:
    torch.manual_seed(0)
    if isinstance(sampler, GaussianMixtureSampler):
        sampler.gmm.random_state = np.random.RandomState(0)  # an integer would repeat itself in every batch
    started = time.monotonic()
    pictures: Tensor = sampler.sample(num_samples=cell.pictures, batch_size=_SAMPLED_AT_ONCE)
    speed = cell.pictures / (time.monotonic() - started)
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8).cpu(), speed
