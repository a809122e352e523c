"""`gan-dcgan`: the classic convolutional GAN, to the letter.

Source: Radford, Metz and Chintala 2015, arXiv:1511.06434, §3 (architecture) and §4 (training). At 64 pixels: five
(transposed) convolutions of 4x4; batch normalisation and ReLU in the generator, LeakyReLU(0.2) in the discriminator, tanh at
the end; weights from N(0, 0.02); Adam with step 2e-4 and beta1 0.5; batches of 64. The discriminator sees a real and a fake
batch apart, each normalised by its own statistics; the generator maximises log D(G(z)) (Goodfellow et al. 2014, §3).

What the paper leaves open, or what differs from it:
- latents are standard normal, as in the authors' released code, where the paper's text says uniform;
- binary cross-entropy is taken from logits, which is the same number with fewer ways to overflow;
- 32 pixels drop the widest layer; 128 pixels add one, as wide as the widest (WIDTHS);
- labels, where there are some, enter both networks as in Mirza and Osindero 2014 (arXiv:1411.1784): the generator reads an
  embedding of the class beside the latent, the discriminator one learnt map of the class beside the colour channels. Fakes
  are made for the labels of the real batch.

Shapes: N batch, C channels, H W pixels, D latent, E embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.catalog import DcganOptions
from models.objective import Batch, Phase, Shape, frozen

#: Widths from 4x4 up to the last layer before the pixels, in base_channels, by resolution.
WIDTHS = {32: (4, 2, 1), 64: (8, 4, 2, 1), 128: (8, 8, 4, 2, 1)}
LABEL_DIM = 50  # E; the paper on conditional GANs only asks for "an embedding"


class DcganGenerator(nn.Module):
    """Latents (and labels) in, pictures out.

    Args:
        options: latent_dim and base_channels are read.
        shape: what the pictures are; shape.classes = 0 builds an unconditional network.
    """

    def __init__(self, options: DcganOptions, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in WIDTHS[shape.resolution]]
        inputs = options.latent_dim + (LABEL_DIM if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, LABEL_DIM) if shape.classes else None
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], 4, bias=False)]  # 1 -> 4 pixels
        for wide, narrow in pairwise(widths):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)]  # doubles H and W
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Develop pictures, float [-1, 1], [N, C, H, W], from latents [N, D] and, if conditional, labels [N]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)  # (N, D + E)
        pictures: Tensor = self.layers(latents[:, :, None, None])
        return pictures


class DcganDiscriminator(nn.Module):
    """Pictures (and labels) in, one logit each out: above zero means "real"."""

    def __init__(self, options: DcganOptions, shape: Shape) -> None:
        super().__init__()
        self.resolution = shape.resolution
        widths = [options.base_channels * width for width in reversed(WIDTHS[shape.resolution])]
        inputs = shape.channels + (1 if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, shape.resolution**2) if shape.classes else None
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 4, stride=2, padding=1, bias=False)]  # halves H and W
        layers += [nn.LeakyReLU(0.2, inplace=True)]  # no normalisation on the first layer, as in the paper
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, inplace=True)]
        layers += [nn.Conv2d(widths[-1], 1, 4, bias=False)]  # 4 -> 1 pixels
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N] for images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        if self.embedding is not None:
            maps = self.embedding(labels).view(-1, 1, self.resolution, self.resolution)
            images = torch.cat([images, maps], dim=1)  # (N, C + 1, H, W)
        logits: Tensor = self.layers(images)
        return logits.flatten()


def initialise(module: nn.Module) -> None:
    """Weights of the paper: N(0, 0.02) for convolutions, N(1, 0.02) for normalisation's scale; its offset is 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DcganObjective:
    """The game of Goodfellow et al. 2014, played by DCGAN's networks."""

    def __init__(self, options: DcganOptions, shape: Shape, device: torch.device) -> None:
        self.generator: nn.Module = DcganGenerator(options, shape)
        self.discriminator = DcganDiscriminator(options, shape)
        for network in (self.generator, self.discriminator):
            network.to(device).to(memory_format=torch.channels_last)
        self._fakes = torch.empty(0)  # of this step: made in phase D, judged again in phase G
        self.gauges: dict[str, Tensor | float] = {}
        self.phases: tuple[Phase, ...] = (
            Phase("D", self.discriminator, _adam(self.discriminator, options), self.discriminator_losses),
            Phase("G", self.generator, _adam(self.generator, options), self.generator_losses),
        )

    def discriminator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """L_D = -E log D(x) - E log(1 - D(G(z))), where log(1 - sigmoid(a)) = -softplus(a).

        Watched beside it: the mean logits, and R_t = E sign(D(x)) of the training images, whose rise to 1 is how a
        discriminator learns them by heart (Karras et al. 2020, arXiv:2006.06676, equation 1).
        """
        self._fakes = self.generator(batch.latents, batch.labels)
        real_logits = self.discriminator(batch.images, batch.labels)
        fake_logits = self.discriminator(self._fakes.detach(), batch.labels)
        self.gauges |= {
            "D_real_logit": real_logits.detach().mean(),
            "D_fake_logit": fake_logits.detach().mean(),
            "R_t": real_logits.detach().sign().mean(),
        }
        return {"D_real": F.softplus(-real_logits).mean(), "D_fake": F.softplus(fake_logits).mean()}

    def generator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """L_G = -E log D(G(z)), the form that does not saturate."""
        fakes, self._fakes = self._fakes, torch.empty(0)
        with frozen(self.discriminator):
            logits = self.discriminator(fakes, batch.labels)
        return {"G": F.softplus(-logits).mean()}


def _adam(network: nn.Module, options: DcganOptions) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=options.learning_rate, betas=(options.beta1, 0.999), fused=True)
