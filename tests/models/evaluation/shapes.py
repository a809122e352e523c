"""Generators that develop pictures which they were given, and real pictures to measure them by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.data import PreparedImages
from models.evaluation.split import split
from models.generator import Generator, GeneratorCard

CLASSES = ["class-0", "class-1", "class-2"]


class Album(nn.Module):
    """Stands for a network: develops one of the pictures that it holds, chosen by the latent, of the label's class."""

    def __init__(self, pictures: Tensor, labels: Tensor | None = None) -> None:
        super().__init__()
        self.pictures = nn.Parameter(pictures.float() / 127.5 - 1)
        self.labels = labels

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        place = (latents[:, 0].sigmoid() * 1e6).long()
        if labels is None or self.labels is None:
            return self.pictures[place % len(self.pictures)]
        of_class = [(self.labels == label).nonzero().flatten() for label in range(len(CLASSES))]
        chosen = [of_class[label][spot % len(of_class[label])] for label, spot in zip(labels, place, strict=True)]
        return self.pictures[torch.stack(chosen)]


def album_generator(network: nn.Module, classes: list[str] | None = None) -> Generator:
    card = GeneratorCard(kind="gan-dcgan", options={}, resolution=32, channels=1, classes=classes, images_seen=640)
    return Generator(network, card)


def labels_of(data: PreparedImages) -> Tensor:
    assert data.labels is not None
    return torch.from_numpy(data.labels)


def control(data: PreparedImages) -> Tensor:
    """Pictures that neither the extractor nor the reference has: what a perfect generator would make."""
    return data.load(32).pixels[split(data.manifest).control]
