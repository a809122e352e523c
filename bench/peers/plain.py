"""The classic DCGAN loop, written plainly, as tutorials do: files, transforms, a DataLoader, `.item()` in every step.

The networks are those of our `gan-dcgan` without labels, so that only the loops differ.

Source: Radford, Metz and Chintala 2015, arXiv:1511.06434, §3 and §4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bench.child import Task, Trained
from models.manifest import Manifest

LATENT_DIM, WIDTH, BATCH = 100, 64, 64
LEARNING_RATE, BETA1 = 2e-4, 0.5
WORKERS = (0, 1, 2)  # of the DataLoader, to try
PROBE_SHARE, MOST_PROBE_S = 1 / 20, 8.0  # of the budget, for each number of workers, outside of the budget


class PlainDcgan:
    """Both networks, their optimizers, and a step."""

    def __init__(self, channels: int, resolution: int, device: str) -> None:
        self.device = device
        self.netG = generator(channels, resolution).to(device)
        self.netD = discriminator(channels, resolution).to(device)
        self.netG.apply(_weights_init)
        self.netD.apply(_weights_init)
        self.criterion = nn.BCELoss()
        self.optimizerD = torch.optim.Adam(self.netD.parameters(), lr=LEARNING_RATE, betas=(BETA1, 0.999))
        self.optimizerG = torch.optim.Adam(self.netG.parameters(), lr=LEARNING_RATE, betas=(BETA1, 0.999))

    def step(self, images: Tensor) -> dict[str, float]:
        """Update D, then G, with one batch, float [-1, 1], [N, C, H, W]."""
        real = images.to(self.device)
        size = len(real)
        ones, zeros = torch.ones(size, device=self.device), torch.zeros(size, device=self.device)

        self.netD.zero_grad()
        output = self.netD(real).view(-1)
        loss_real = self.criterion(output, ones)
        loss_real.backward()
        noise = torch.randn(size, LATENT_DIM, 1, 1, device=self.device)
        fake = self.netG(noise)
        output_fake = self.netD(fake.detach()).view(-1)
        loss_fake = self.criterion(output_fake, zeros)
        loss_fake.backward()
        self.optimizerD.step()

        self.netG.zero_grad()
        output_again = self.netD(fake).view(-1)
        loss_g = self.criterion(output_again, ones)
        loss_g.backward()
        self.optimizerG.step()
        return {
            "D": (loss_real + loss_fake).item(),
            "G": loss_g.item(),
            "D_x": output.mean().item(),
            "D_G_z": output_again.mean().item(),
        }


def train(task: Task) -> Trained:
    """Train it with the number of workers that is fastest here."""
    cell, manifest = task.cell, Manifest.read(task.prepared)
    workers = cell.options.get("workers")
    rates: dict[str, float] = {}
    if workers is None:
        probe_s = min(MOST_PROBE_S, PROBE_SHARE * (cell.budget_s or MOST_PROBE_S / PROBE_SHARE))
        rates = {str(count): _rate(task, manifest.channels, count, probe_s) for count in WORKERS}
        workers = int(max(rates, key=rates.__getitem__))
    torch.manual_seed(cell.seed)
    model = PlainDcgan(manifest.channels, cell.resolution, cell.device)
    losses: list[dict[str, float]] = []
    seen, elapsed_s = 0, 0.0
    started = time.monotonic()
    for images in _batches(task, manifest.channels, workers):
        losses.append(model.step(images))
        seen += len(images)
        elapsed_s = time.monotonic() - started
        if cell.spent(elapsed_s, seen):
            break
    facts = {"workers": workers, "workers_images_per_s": rates, "losses": losses[-1]}
    return Trained(seen, elapsed_s, facts, _galleries(model, cell.pictures))


def generator(channels: int, resolution: int) -> nn.Sequential:
    """Noise [N, 100, 1, 1] in, pictures [N, C, H, W] in [-1, 1] out."""
    widths = [WIDTH * 2**power for power in reversed(range(_doublings(resolution)))]
    layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT_DIM, widths[0], 4, 1, 0, bias=False)]
    for wide, narrow in pairwise(widths):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(True), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
    layers += [
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(True),
        nn.ConvTranspose2d(WIDTH, channels, 4, 2, 1, bias=False),
        nn.Tanh(),
    ]
    return nn.Sequential(*layers)


def discriminator(channels: int, resolution: int) -> nn.Sequential:
    """Pictures [N, C, H, W] in, the probability [N, 1, 1, 1] that they are real out."""
    widths = [WIDTH * 2**power for power in range(_doublings(resolution))]
    layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for narrow, wide in pairwise(widths):
        layers += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Sigmoid())


def _doublings(resolution: int) -> int:
    """How often 4 pixels are doubled: 4 times to 64."""
    return resolution.bit_length() - 3


def _weights_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _batches(task: Task, channels: int, workers: int) -> Iterator[Tensor]:
    """Shuffled batches without end, float [-1, 1], [N, C, H, W]."""
    resolution = task.cell.resolution
    steps: list[Any] = [transforms.Grayscale()] if channels == 1 else []
    steps += [transforms.Resize(resolution), transforms.CenterCrop(resolution), transforms.ToTensor()]
    steps += [transforms.Normalize((0.5,) * channels, (0.5,) * channels)]
    dataset = ImageFolder(str(task.files), transform=transforms.Compose(steps))
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
    while True:
        for images, _ in loader:
            yield images


def _rate(task: Task, channels: int, workers: int, seconds: float) -> float:
    """Images a second with so many workers."""
    model = PlainDcgan(channels, task.cell.resolution, task.cell.device)
    seen, started = 0, time.monotonic()
    for images in _batches(task, channels, workers):
        model.step(images)
        seen += len(images)
        if (elapsed_s := time.monotonic() - started) >= seconds:
            return seen / elapsed_s
    raise AssertionError("batches do not end")


@torch.no_grad()
def _galleries(model: PlainDcgan, count: int) -> dict[str, tuple[Tensor, float]]:
    """Pictures with the statistics that training collected, and with each batch's own, as scripts that never call eval()."""
    galleries = {}
    for name in ("running-statistics", "batch-statistics") if count else ():
        model.netG.train(name == "batch-statistics")
        torch.manual_seed(0)
        started = time.monotonic()
        noise = (torch.randn(BATCH, LATENT_DIM, 1, 1, device=model.device) for _ in range(0, count, BATCH))
        made = torch.cat([model.netG(one) for one in noise])[:count]
        pictures = ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        galleries[name] = pictures, count / (time.monotonic() - started)
    return galleries
