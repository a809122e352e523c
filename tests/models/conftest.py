"""Small prepared data and short trainings, made without reading a single image file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalog import parse_options
from models.config import TrainingConfig
from models.data import PreparedImages
from models.manifest import VERSION, Manifest, PreparedImage

#: Nets as small as the kinds allow, by kind: what the battery trains.
SMALL = {
    "gan-dcgan": {"base_channels": 4, "latent_dim": 8, "batch_size": 8},
    "gan-r3": {"base_channels": 8, "latent_dim": 8, "batch_size": 8},
    "gan-fewshot": {"base_channels": 8, "latent_dim": 8, "batch_size": 8},
    "vae-sigma": {"base_channels": 4, "latent_dim": 8, "batch_size": 8},
    "vae-gan": {"base_channels": 4, "discriminator_channels": 4, "latent_dim": 8, "batch_size": 8},
}

Prepare = Callable[..., PreparedImages]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small nets are faster on one thread, above all when tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """Makes prepared data: `count` smooth pictures, labelled in turn with `classes` classes, or unlabelled for 0."""

    def make(count: int = 8, *, classes: int = 2, channels: int = 1, resolution: int = 32) -> PreparedImages:
        directory = tmp_path / f"prepared-{count}-{classes}-{channels}-{resolution}"
        if not directory.exists():
            directory.mkdir()
            pixels = pictures(count, channels, resolution)
            pixels.tofile(directory / "images.u8")
            labels = [index % classes if classes else None for index in range(count)]
            Manifest(
                version=VERSION,
                resolution=resolution,
                channels=channels,
                count=count,
                classes=[f"class {index}" for index in range(classes)] or None,
                class_counts=[labels.count(index) for index in range(classes)] or None,
                background=(255, 255, 255),
                source_name="made up",
                images=[
                    PreparedImage(f"{index}.png", hashlib.sha256(picture.tobytes()).hexdigest(), label)
                    for index, (picture, label) in enumerate(zip(pixels, labels, strict=True))
                ],
                refused=[],
            ).write(directory)
        return PreparedImages.open(directory)

    return make


@pytest.fixture
def configured() -> Callable[..., TrainingConfig]:
    """Makes the configuration of a training with a small net that never ticks by the clock."""

    def make(kind: str = "gan-dcgan", *, images: int = 64, options: dict[str, object] | None = None) -> TrainingConfig:
        return TrainingConfig(
            kind=kind,
            resolution=32,
            options=parse_options(kind, {**SMALL[kind], **(options or {})}),
            budget_images=images,
            seed=7,
            checkpoint_interval_s=1e6,
            tick_interval_s=1e6,
            preview_interval_s=1e6,
        )

    return make


def pictures(count: int, channels: int, resolution: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Waves of different directions, uint8 [N, C, H, W]: no two alike, and simple enough to be learnt in a moment."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 1, resolution), np.linspace(0, 1, resolution))
    turns = random.uniform(-2, 2, (count, channels, 2, 1, 1))
    waves = np.sin(2 * np.pi * (turns[:, :, 0] * across + turns[:, :, 1] * down))
    return np.rint((waves + 1) * 127.5).astype(np.uint8)
