"""`gan-r3`: a GAN without normalisation layers, trained by a relativistic game under zero-centred penalties.

Source: Huang et al. 2025, The GAN is dead; long live the GAN! A Modern Baseline GAN, arXiv:2501.05441.

    L_D = E softplus(-(D(x) - D(G(z)))) + gamma / 2 (R1 + R2)     L_G = E softplus(-(D(G(z)) - D(x)))     (§2)

Blocks are residual: LeakyReLU and convolutions, no normalisation; the last 1x1 convolution of each begins at zero and the
others with a variance scaled down by depth (§3.2 to §3.4, after Zhang et al. 2019, arXiv:1901.09321). Adam with beta1 = 0;
along cosines over the budget fall the step size and gamma, and beta2 rises from 0.9 to 0.99 (their appendix's schedules); the
half-life of the averaged generator rises with the images seen, as for every kind (`models.ema`).

What differs from the paper:
- pixels are made from, and read at, half their resolution by a 4x4 convolution of stride 2: full-resolution blocks cost a CPU
  more than they give at up to 128 pixels. Resolutions change by nearest neighbours and by averaging, with a 1x1 convolution
  where widths differ;
- tanh bounds the pictures, since what leaves [-1, 1] can't be stored anyway;
- besides their grouped convolutions (inverted bottlenecks) there is a dense block of one 3x3 and one 1x1 convolution; which
  is faster depends on the device, and `auto` has both timed before a training starts (`models.choosing`);
- penalties are lazy by default: every fourth step, four times as heavy (Karras et al. 2020, arXiv:1912.04958, §3.1), which
  leaves their mean as it is;
- labels: the generator reads an embedding beside the latent; the discriminator adds its features' projection on an embedding
  (Miyato and Koyama 2018, arXiv:1802.05637), whose weight rises from 0 to 1 over the first images, so that pictures are
  learnt before classes. With `label_loss` it also learns to tell real pictures' classes by the same embedding (the auxiliary
  classifier of Odena et al. 2017, arXiv:1610.09585, equation 2, of which the generator learns by the game alone).

Shapes: N batch, C channels, H W pixels, D latent, E embedding, F features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan.adversarial import AdversarialObjective
from models.gan.stddev import MinibatchStddev
from models.objective import Batch, Hyperparameters, Shape
from models.options import BlockStyle, R3Options
from models.schedule import cosine

#: Widths from the smallest maps up to half the pixels, in base_channels, by resolution.
WIDTHS = {32: (4, 4, 2), 64: (4, 4, 2, 1), 96: (4, 4, 2, 1), 128: (8, 4, 4, 2, 1)}
LABEL_DIM = 32  # E
GROUP_WIDTH = 16  # channels of one group
EXPANSION = 2  # of a grouped block's middle
LEAK = 0.2
BETA2 = (0.9, 0.99)  # of Adam, at the start and at the end
RAMPED_AT = 0.5  # of the budget: where beta2 and gamma have arrived
GAMMA_END = 0.1  # of gamma, at the end


class Block(nn.Module):
    """A residual block without normalisation: [N, C, H, W] to the same shape; begins as the identity."""

    def __init__(self, width: int, style: BlockStyle, depth: int) -> None:
        super().__init__()
        middle = EXPANSION * width if style == "grouped" else width
        layers: list[nn.Module] = []
        if style == "grouped":
            layers += [_conv(width, middle, 1, depth), nn.LeakyReLU(LEAK, inplace=True)]
        groups = middle // GROUP_WIDTH if style == "grouped" and middle % GROUP_WIDTH == 0 else 1
        layers += [_conv(middle, middle, 3, depth, groups=groups), nn.LeakyReLU(LEAK, inplace=True)]
        last = nn.Conv2d(middle, width, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = maps + self.layers(maps)
        return changed


class R3Generator(nn.Module):
    """Latents (and labels) in, pictures out.

    Args:
        options: latent_dim, base_channels and block are read.
        shape: what the pictures are; shape.classes = 0 builds an unconditional network.
    """

    def __init__(self, options: R3Options, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in WIDTHS[shape.resolution]]
        self.size = shape.resolution >> len(widths)
        inputs = options.latent_dim + (LABEL_DIM if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, LABEL_DIM) if shape.classes else None
        self.start = nn.Linear(inputs, widths[0] * self.size**2)
        nn.init.normal_(self.start.weight, std=1 / math.sqrt(inputs))
        layers: list[nn.Module] = [Block(widths[0], options.block, len(widths))]
        for wide, narrow in pairwise(widths):
            layers += [_conv(wide, narrow, 1, 1)] if wide != narrow else []
            layers += [nn.Upsample(scale_factor=2), Block(narrow, options.block, len(widths))]
        layers += [
            nn.LeakyReLU(LEAK),
            nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Develop pictures, float [-1, 1], [N, C, H, W], from latents [N, D] and, if conditional, labels [N]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)  # (N, D + E)
        maps = self.start(latents).unflatten(1, (-1, self.size, self.size))
        pictures: Tensor = self.layers(maps.contiguous(memory_format=torch.channels_last))
        return pictures.float()


class R3Discriminator(nn.Module):
    """Pictures (and labels) in, one logit each out: above zero means "real"."""

    label_weight: Tensor  # (), from 0 to 1

    def __init__(self, options: R3Options, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in reversed(WIDTHS[shape.resolution])]
        layers: list[nn.Module] = [nn.Conv2d(shape.channels, widths[0], 4, stride=2, padding=1)]
        layers += [Block(widths[0], options.block, len(widths))]
        for narrow, wide in pairwise(widths):
            layers += [nn.AvgPool2d(2)]
            layers += [_conv(narrow, wide, 1, 1)] if wide != narrow else []
            layers += [Block(wide, options.block, len(widths))]
        self.layers = nn.Sequential(*layers)
        statistic = [MinibatchStddev()] if options.minibatch_stddev else []
        size = shape.resolution >> len(widths)
        self.features = nn.Sequential(  # size -> 1 pixel, a weight for each place
            *statistic,
            nn.LeakyReLU(LEAK),
            nn.Conv2d(widths[-1] + len(statistic), widths[-1], size),
            nn.LeakyReLU(LEAK),
            nn.Flatten(),
        )
        self.read = nn.Linear(widths[-1], 1)
        self.embedding = nn.Embedding(shape.classes, widths[-1]) if shape.classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(widths[-1]))
        self.register_buffer("label_weight", torch.ones(()))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N] for images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        return self._judge(self._read(images), labels)

    def judge_and_tell(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N] as above, and how likely each class is, as logits [N, K]; for conditional discriminators."""
        assert self.embedding is not None
        features = self._read(images)
        return self._judge(features, labels), F.linear(features, self.embedding.weight).float()

    def _read(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(self.layers(images))  # (N, F)
        return features

    def _judge(self, features: Tensor, labels: Tensor | None) -> Tensor:
        logits: Tensor = self.read(features)[:, 0].float()
        if self.embedding is not None:
            logits = logits + self.label_weight * (features * self.embedding(labels)).sum(dim=1)
        return logits


class R3Objective(AdversarialObjective):
    """The relativistic game, with schedules over the budget."""

    def __init__(self, options: R3Options, shape: Shape, device: torch.device) -> None:
        self.of_labels, self.of_classes = options.label_ramp_images, options.label_loss
        generator = R3Generator(options, shape)
        super().__init__(
            options, generator, [R3Discriminator(options, shape) for _ in range(options.discriminators)], device
        )

    def judged_real(
        self, judge: nn.Module, images: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        if labels is None or not self.of_classes:
            return super().judged_real(judge, images, labels)
        assert isinstance(judge, R3Discriminator)
        logits, told = judge.judge_and_tell(images, labels)
        return logits, {"label": self.of_classes * F.cross_entropy(told, labels)}

    def hyperparameters(self, learning_rate: float, fraction: float) -> Hyperparameters:
        beta2 = cosine(*BETA2, fraction, until=RAMPED_AT)
        return Hyperparameters(
            super().hyperparameters(learning_rate, fraction).learning_rate, (self.options.beta1, beta2)
        )

    def gamma(self, fraction: float) -> float:
        if self.options.schedule != "cosine":
            return self.options.gamma
        return self.options.gamma * cosine(1.0, GAMMA_END, fraction, until=RAMPED_AT)

    def discriminator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        weight = min(1.0, batch.images_seen / self.of_labels) if self.of_labels else 1.0
        for judge in self.discriminators:
            assert isinstance(judge, R3Discriminator)
            judge.label_weight.fill_(weight)
        return super().discriminator_losses(batch)


def _conv(inputs: int, outputs: int, size: int, depth: int, *, groups: int = 1) -> nn.Conv2d:
    """A convolution that begins with He's variance for LeakyReLU, scaled down where `depth` blocks add up."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, LEAK)
    with torch.no_grad():
        layer.weight *= depth**-0.25
    return layer
