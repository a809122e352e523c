"""`gan-dcgan`: the classic convolutional GAN, to the letter.

Source: Radford, Metz and Chintala 2015, arXiv:1511.06434, §3 (architecture) and §4 (training). At 64 pixels: five
(transposed) convolutions of 4x4; batch normalisation and ReLU in the generator, LeakyReLU(0.2) in the discriminator, tanh at
the end; weights from N(0, 0.02); Adam with step 2e-4 and beta1 0.5; batches of 64. The discriminator sees a real and a fake
batch apart, each normalised by its own statistics; the generator maximises log D(G(z)) (Goodfellow et al. 2014, §3).

What the paper leaves open, or what differs from it:
- latents are standard normal, as in the authors' released code, where the paper's text says uniform;
- binary cross-entropy is taken from logits, which is the same number with fewer ways to overflow;
- 32 pixels drop the widest layer; 128 pixels add one, as wide as the widest; 96 pixels begin at 6 instead of 4 (WIDTHS);
- labels, where there are some, enter both networks as in Mirza and Osindero 2014 (arXiv:1411.1784): the generator reads an
  embedding of the class beside the latent, the discriminator one learnt map of the class beside the colour channels. Fakes
  are made for the labels of the real batch.

Shapes: N batch, C channels, H W pixels, D latent, E embedding, K classes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.convolution import DoublingConv2d, HalvingConv2d
from models.gan.adversarial import AdversarialObjective
from models.gan.stddev import MinibatchStddev
from models.objective import Shape
from models.options import DcganOptions

#: Widths from the smallest maps up to the last layer before the pixels, in base_channels, by resolution.
WIDTHS = {32: (4, 2, 1), 64: (8, 4, 2, 1), 96: (8, 4, 2, 1), 128: (8, 8, 4, 2, 1)}
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
        size = shape.resolution >> len(widths)
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], size, bias=False)]  # 1 -> 4 (or 6) pixels
        for wide, narrow in pairwise(widths):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            layers += [DoublingConv2d(wide, narrow)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Develop pictures, float [-1, 1], [N, C, H, W], from latents [N, D] and, if conditional, labels [N]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)  # (N, D + E)
        pictures: Tensor = self.layers(latents[:, :, None, None])
        return pictures.float()


class DcganDiscriminator(nn.Module):
    """Pictures (and labels) in, one logit each out: above zero means "real"."""

    def __init__(self, options: DcganOptions, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in reversed(WIDTHS[shape.resolution])]
        inputs = shape.channels + (1 if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, shape.resolution**2) if shape.classes else None
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 4, stride=2, padding=1, bias=False)]  # halves H and W
        layers += [nn.LeakyReLU(0.2, inplace=True)]  # no normalisation on the first layer, as in the paper
        for narrow, wide in pairwise(widths):
            layers += [HalvingConv2d(narrow, wide)]
            layers += [nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, inplace=True)]
        statistic = [MinibatchStddev()] if options.minibatch_stddev else []
        size = shape.resolution >> len(widths)
        layers += [*statistic, nn.Conv2d(widths[-1] + len(statistic), 1, size, bias=False)]  # 4 (or 6) -> 1 pixels
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N] for images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        logits: Tensor = self.layers(with_label_map(images, labels, self.embedding))
        return logits.flatten().float()


def with_label_map(images: Tensor, labels: Tensor | None, embedding: nn.Embedding | None) -> Tensor:
    """Pictures with one learnt map of their class beside the colour channels.

    Args:
        images: float [N, C, H, W].
        labels: int64 [N]; None where there is no embedding.
        embedding: of K classes, H W numbers each; None leaves the pictures as they are.

    Returns:
        float [N, C + 1, H, W], or the pictures themselves.
    """
    if embedding is None:
        return images
    return torch.cat([images, embedding(labels).view(-1, 1, *images.shape[2:])], dim=1)


def initialise(module: nn.Module) -> None:
    """Weights of the paper: N(0, 0.02) for convolutions, N(1, 0.02) for normalisation's scale; its offset is 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DcganObjective(AdversarialObjective):
    """The game of Goodfellow et al. 2014, played by DCGAN's networks, unless options say otherwise."""

    def __init__(self, options: DcganOptions, shape: Shape, device: torch.device) -> None:
        generator = DcganGenerator(options, shape)
        super().__init__(
            options, generator, [DcganDiscriminator(options, shape) for _ in range(options.discriminators)], device
        )
