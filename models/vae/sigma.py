"""`vae-sigma`: a variational autoencoder whose decoder's variance is the best one at every step.

Source: Rybkin, Daniilidis and Levine 2021, Simple and Effective VAE Training with Calibrated Decoders, arXiv:2006.13202, §3
("optimal sigma-VAE"). The decoder is N(mu(z), sigma^2 I) with one sigma for all pixels. Given mu, the likelihood is greatest
at sigma^2 = mean squared error (their equation 6), so no weight between reconstruction and KL has to be chosen:

    -ELBO(x) = P/2 (ln(2 pi sigma^2) + MSE / sigma^2) + KL(q(z | x) || N(0, I)),     P = C H W,

summed over pixels and latent numbers, averaged over the batch. What is developed is the mean mu(z); no noise is added.

What differs from the paper:
- the best sigma^2 is that of the batch, and never below the variance of rounding to 256 levels, where it would run to zero;
- KL warm-up (Bowman et al. 2016, arXiv:1511.06349, §3.1): its weight rises in a straight line over the first images;
- free bits (Kingma et al. 2016, arXiv:1606.04934, appendix C.8): no latent number is pushed below `free_nats` nats, so that
  not too many fall asleep;
- networks of residual blocks (group normalisation, SiLU, convolution, twice), after He et al. 2016, arXiv:1603.05027. Most
  of their work is done at 16 pixels and below, where it is cheap: a CPU has to train this;
- latents are drawn from mixtures fitted to the encoded pictures, not from N(0, I) (`models.prior`);
- labels, where there are some, enter both networks as an embedding: beside the latent, and added at the encoder's end.

Shapes: N batch, C channels, H W pixels, D latent, E embedding, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.objective import Batch, Hyperparameters, Phase, Shape
from models.options import VaeSigmaOptions
from models.schedule import step_share

#: Widths in base_channels by resolution, from half the pixels down to BOTTOM.
WIDTHS = {32: (1, 2, 4), 64: (1, 2, 4, 4), 96: (1, 2, 4, 4), 128: (1, 1, 2, 4, 4)}
BLOCKS_UP_TO_PX = 16  # larger maps get no residual blocks of their own
LABEL_DIM = 32  # E
GROUPS = 8  # of channels that are normalised together; fewer where a width cannot be divided by it
LOG_VARIANCES = (-12.0, 6.0)  # that a posterior may have: what lies beyond is a number overflowing, not a picture
BETAS = (0.9, 0.999)  # of Adam
LEAST_VARIANCE = (2 / 255) ** 2 / 12  # of pixels in [-1, 1]: what rounding to 256 levels leaves


class Block(nn.Module):
    """A residual block: [N, C, H, W] to the same shape; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            _normalised(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), _normalised(width), nn.SiLU(), last
        )

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = maps + self.layers(maps)
        return changed


class Encoder(nn.Module):
    """Pictures (and labels) in, the mean and the standard deviation of each posterior out."""

    def __init__(self, options: VaeSigmaOptions, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in WIDTHS[shape.resolution]]
        size = shape.resolution // 2
        layers: list[nn.Module] = [
            nn.Conv2d(shape.channels, widths[0], 4, stride=2, padding=1),
            *_blocks(widths[0], size),
        ]
        for narrow, wide in pairwise(widths):
            size //= 2
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), *_blocks(wide, size)]
        self.layers = nn.Sequential(*layers)
        self.embedding = nn.Embedding(shape.classes, widths[-1]) if shape.classes else None
        self.head = nn.Sequential(
            _normalised(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 2 * options.latent_dim, size)
        )  # size -> 1 pixel

    def forward(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means and log variances, each [N, D], of images, float [-1, 1], [N, C, H, W]."""
        maps = self.layers(images)
        if self.embedding is not None:
            maps = maps + self.embedding(labels)[:, :, None, None]
        means, log_variances = self.head(maps).flatten(1).float().chunk(2, dim=1)
        return means, log_variances.clamp(*LOG_VARIANCES)


class Decoder(nn.Module):
    """Latents (and labels) in, the mean of the pictures out, not bounded."""

    def __init__(self, options: VaeSigmaOptions, shape: Shape) -> None:
        super().__init__()
        widths = [options.base_channels * width for width in reversed(WIDTHS[shape.resolution])]
        inputs = options.latent_dim + (LABEL_DIM if shape.classes else 0)
        self.embedding = nn.Embedding(shape.classes, LABEL_DIM) if shape.classes else None
        size = shape.resolution >> len(widths)
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], size), *_blocks(widths[0], size)]  # 1 -> size
        for wide, narrow in pairwise(widths):
            size *= 2
            layers += [_normalised(wide), nn.SiLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
            layers += _blocks(narrow, size)
        layers += [_normalised(widths[-1]), nn.SiLU()]
        layers += [nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Pictures [N, C, H, W] from latents [N, D]."""
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)  # (N, D + E)
        pictures: Tensor = self.layers(latents[:, :, None, None])
        return pictures.float()


class VaeSigma(nn.Module):
    """Both halves in one: the encoder is kept with what is sampled from, so that pictures can be found in latent space.

    Args:
        options: latent_dim and base_channels are read.
        shape: what the pictures are; shape.classes = 0 builds an unconditional network.
    """

    def __init__(self, options: VaeSigmaOptions, shape: Shape) -> None:
        super().__init__()
        self.encoder = Encoder(options, shape)
        self.decoder = Decoder(options, shape)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Develop pictures, float [-1, 1], [N, C, H, W], from latents [N, D] and, if conditional, labels [N]."""
        pictures: Tensor = self.decoder(latents, labels).clamp(-1, 1)
        return pictures

    def posterior(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The means and the standard deviations, each [N, D], of q(z | x) for images, float [-1, 1], [N, C, H, W]."""
        means, log_variances = self.encoder(images, labels)
        return means, (0.5 * log_variances).exp()


class VaeSigmaObjective:
    """-ELBO, with the decoder's variance at its best."""

    def __init__(self, options: VaeSigmaOptions, shape: Shape, device: torch.device) -> None:
        self.options = options
        self.network = VaeSigma(options, shape)
        self.network.to(device).to(memory_format=torch.channels_last)
        self.generator: nn.Module = self.network
        self.gauges: dict[str, Tensor | float] = {}
        optimizer = torch.optim.Adam(self.network.parameters(), lr=options.learning_rate, fused=True)
        self.phases: tuple[Phase, ...] = (Phase("VAE", self.network, optimizer, self.losses, self.hyperparameters),)

    def hyperparameters(self, fraction: float) -> Hyperparameters:
        """What Adam works with when so much of the budget is spent."""
        return Hyperparameters(self.options.learning_rate * step_share(self.options.schedule, fraction), BETAS)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Nats a picture; the batch's latents serve as the noise of z = mean + deviation * noise."""
        means, log_variances = self.network.encoder(batch.images, batch.labels)
        latents = means + (0.5 * log_variances).exp() * batch.latents
        pictures = self.network.decoder(latents, batch.labels)
        return {
            "reconstruction": negative_log_likelihood(pictures, batch.images),
            "KL": self.divergence(means, log_variances, pictures, batch),
        }

    def divergence(self, means: Tensor, log_variances: Tensor, pictures: Tensor, batch: Batch) -> Tensor:
        """The KL divergence with its present weight, in nats a picture.

        Watched beside it: sigma in units of [-1, 1], the KL divergence without weight or free bits, and its weight.
        """
        warmth = warm_up(batch.images_seen + batch.size, self.options.kl_warmup_images)
        with torch.no_grad():
            self.gauges |= {
                "sigma": best_variance(F.mse_loss(pictures, batch.images)).sqrt(),
                "KL_unweighted": kl_divergence(means, log_variances, free_nats=0),
                "KL_weight": warmth,
            }
        return warmth * kl_divergence(means, log_variances, free_nats=self.options.free_nats)


def negative_log_likelihood(pictures: Tensor, images: Tensor) -> Tensor:
    """-ln N(x; mu, sigma^2 I) in nats a picture, sigma^2 being the mean squared error of the batch.

    Args:
        pictures: mu, float [N, C, H, W].
        images: x, of the same shape.

    Returns:
        a scalar: summed over pixels, averaged over the batch.
    """
    error = F.mse_loss(pictures, images)
    variance = best_variance(error)
    return 0.5 * images[0].numel() * (torch.log(2 * math.pi * variance) + error / variance)


def best_variance(error: Tensor) -> Tensor:
    """The sigma^2 under which pictures of this mean squared error are likeliest; the error's gradient stays out of it."""
    return error.detach().clamp_min(LEAST_VARIANCE)  # at the optimum its own gradient is zero


def kl_divergence(means: Tensor, log_variances: Tensor, *, free_nats: float) -> Tensor:
    """KL(q || N(0, I)) in nats a picture, no latent number counting less than `free_nats` in the mean of the batch.

    Args:
        means: of q, float [N, D].
        log_variances: of q, float [N, D].
        free_nats: lambda of Kingma et al. 2016, for each latent number.

    Returns:
        a scalar: summed over latent numbers, averaged over the batch.
    """
    each = 0.5 * (means.square() + log_variances.exp() - 1 - log_variances).mean(dim=0)  # (D,)
    return each.clamp_min(free_nats).sum()


def warm_up(images_seen: int, images: int) -> float:
    """The weight of KL after so many images: from 0 to 1 in a straight line over the first `images`."""
    return min(1.0, images_seen / images) if images else 1.0


def _blocks(width: int, size: int) -> list[nn.Module]:
    return [Block(width)] if size <= BLOCKS_UP_TO_PX else []


def _normalised(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, width), width)
