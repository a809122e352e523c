"""`gan-fewshot`: a light GAN for 20 to 2,000 pictures.

Source: Liu et al. 2021, Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis,
arXiv:2101.04775:
- skip-layer excitation (§3.1): small maps decide, channel by channel, how much of large ones passes;
- a discriminator that learns as an encoder (§3.2): from its maps a small decoder must redraw the real picture, so that it
  has to see all of it, not the few traits that give fakes away;
- the hinge game, with each patch judged by itself; all pictures seen through differentiable augmentation
  (`models.augment`).

What differs from the paper:
- at up to 128 pixels, maps are made at half the resolution at most, and a 4x4 convolution of stride 2 makes pixels of them;
- redrawing is at half the resolution and compared by absolute differences, since perceptual features would have to be
  downloaded;
- no noise is injected: one seed has to give one picture, whatever else is asked for;
- a mode-seeking term (`models.gan.adversarial`) keeps latents apart: without it each class became one picture;
- labels enter both networks as in `models.gan.dcgan`: an embedding beside the latent, a learnt map beside the colours.

Shapes: N batch, C channels, H W pixels, D latent, E embedding, F features, P patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan.adversarial import AdversarialObjective
from models.gan.dcgan import with_label_map
from models.gan.stddev import MinibatchStddev
from models.objective import Shape
from models.options import FewshotOptions

#: Widths from the smallest maps up to half the pixels, in base_channels, by resolution.
WIDTHS = {32: (8, 4, 2), 64: (8, 8, 4, 2), 96: (8, 8, 4, 2), 128: (8, 8, 4, 2, 1)}
LABEL_DIM = 32  # E
SKIP = 2  # doublings between the maps that excite and those that are excited
JUDGED_PX = 8  # the side of the maps whose patches are judged, at least
LEAK = 0.1


class Excitation(nn.Module):
    """Scales the channels of large maps by what small ones show."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(small, large, 4), nn.SiLU(), nn.Conv2d(large, large, 1), nn.Sigmoid()
        )

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        """[N, C, h, w] and [N, C', H, W] to the latter's shape."""
        excited: Tensor = large * self.layers(small)
        return excited


class FewshotGenerator(nn.Module):
    """Latents (and labels) in, pictures out.

    Args:
        options: latent_dim and base_channels are read.
        shape: what the pictures are; shape.classes = 0 builds an unconditional network.
    """

    def __init__(self, options: FewshotOptions, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in WIDTHS[shape.resolution]]
        inputs = options.latent_dim + (LABEL_DIM if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, LABEL_DIM) if shape.classes else None
        size = shape.resolution >> len(widths)
        self.start = nn.Sequential(
            nn.ConvTranspose2d(inputs, 2 * widths[0], size, bias=False), nn.BatchNorm2d(2 * widths[0]), nn.GLU(dim=1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2),
                nn.Conv2d(wide, 2 * narrow, 3, padding=1, bias=False),
                nn.BatchNorm2d(2 * narrow),
                nn.GLU(dim=1),
            )
            for wide, narrow in pairwise(widths)
        )
        self.excitations = nn.ModuleList(
            Excitation(small, large) for small, large in zip(widths, widths[SKIP:], strict=False)
        )
        self.end = nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Develop pictures, float [-1, 1], [N, C, H, W], from latents [N, D] and, if conditional, labels [N]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)  # (N, D + E)
        maps = [self.start(latents[:, :, None, None])]
        for place, stage in enumerate(self.stages, start=1):
            made = stage(maps[-1])
            maps.append(self.excitations[place - SKIP](maps[place - SKIP], made) if place >= SKIP else made)
        return torch.tanh(self.end(maps[-1])).float()


class Halving(nn.Module):
    """Half the pixels by two ways that are averaged: convolutions, and a plain mean."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.changed = nn.Sequential(
            nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(LEAK),
        )
        self.plain = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(LEAK)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H/2, W/2]."""
        halved: Tensor = (self.changed(maps) + self.plain(maps)) / 2
        return halved


class FewshotDiscriminator(nn.Module):
    """Pictures (and labels) in, one logit for each patch out: above zero means "real"."""

    def __init__(self, options: FewshotOptions, shape: Shape) -> None:
        super().__init__()
        side = shape.resolution // 2
        widths = [options.base_channels]
        self.embedding = nn.Embedding(shape.classes, shape.resolution**2) if shape.classes else None
        inputs = shape.channels + (1 if shape.classes else 0)
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        while side >= 2 * JUDGED_PX:
            widths.append(min(2 * widths[-1], 8 * options.base_channels))
            layers.append(Halving(widths[-2], widths[-1]))
            side //= 2
        self.layers = nn.Sequential(*layers)
        statistic = [MinibatchStddev()] if options.minibatch_stddev else []
        self.read = nn.Sequential(
            *statistic,
            nn.Conv2d(widths[-1] + len(statistic), widths[-1], 1, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(widths[-1], 1, 4),
        )
        redraw: list[nn.Module] = []
        for wide, narrow in pairwise(reversed(widths)):
            redraw += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, 2 * narrow, 3, padding=1, bias=False)]
            redraw += [nn.BatchNorm2d(2 * narrow), nn.GLU(dim=1)]
        self.redraw = nn.Sequential(*redraw, nn.Conv2d(widths[0], shape.channels, 3, padding=1), nn.Tanh())

    def look(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Maps [N, F, h, w] of images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        maps: Tensor = self.layers(with_label_map(images, labels, self.embedding))
        return maps

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N P] for images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        logits: Tensor = self.read(self.look(images, labels))
        return logits.flatten().float()


class FewshotObjective(AdversarialObjective):
    """The game, and the discriminator's redrawing of real pictures."""

    def __init__(self, options: FewshotOptions, shape: Shape, device: torch.device) -> None:
        self.reconstruction = options.reconstruction
        generator = FewshotGenerator(options, shape)
        super().__init__(
            options, generator, [FewshotDiscriminator(options, shape) for _ in range(options.discriminators)], device
        )

    def judged_real(
        self, judge: nn.Module, images: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(judge, FewshotDiscriminator)
        maps = judge.look(images, labels)
        logits = judge.read(maps).flatten().float()
        if not self.reconstruction:
            return logits, {}
        redrawn = judge.redraw(maps).float()
        error = F.l1_loss(redrawn, F.adaptive_avg_pool2d(images, redrawn.shape[-1]).clamp(-1, 1))
        return logits, {"redrawing": self.reconstruction * error}
