"""`vae-gan`: a sigma-VAE whose decoder also answers to an adversary, so that it covers the data and is sharp.

Ours; what it is made of:
- `vae-sigma` in all: networks, likelihood, KL warm-up, free bits, mixture of latents (`models.vae.sigma`, `models.prior`);
- the absolute differences of Laplacian pyramids (Bojanowski et al. 2018, arXiv:1707.05776, §2), which weigh edges of every
  scale alike, where the likelihood weighs large surfaces;
- a discriminator of patches (Isola et al. 2017, arXiv:1611.07004, §3.2.2) in a relativistic game under R1 and R2
  (`models.gan.losses`): each picture plays against its own reconstruction, patch by patch, so that what tells them apart is
  what the reconstruction lacks, not what they show. (A VAE's decoder as the generator of a GAN: Larsen et al. 2016,
  arXiv:1512.09300.)

The three pull at the same pixels with forces of different sizes, and these change as training goes on. So their gradients
at the decoder's output are measured in every step, and edges and adversary are scaled to given shares of the likelihood's,
after Esser et al. 2021, arXiv:2012.09841, equation (7), who measure at the last layer. Measuring there costs nothing: the
gradient at the pictures is what is propagated through the decoder anyway.

Shapes: N batch, C channels, H W pixels, D latent, P patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan.dcgan import initialise, with_label_map
from models.gan.losses import Relativistic
from models.gan.penalties import squared_slope
from models.objective import Batch, Hyperparameters, Phase, Shape, frozen
from models.options import VaeGanOptions
from models.schedule import step_share
from models.vae.sigma import VaeSigmaObjective, negative_log_likelihood

LEVELS_TO_PX = 8  # the coarsest level of a pyramid has at least so many pixels on a side
BETAS = (0.5, 0.999)  # of the discriminator's Adam
LEAK = 0.2
LOUDEST = 1e4  # that a pull is scaled up, also where it is next to nothing
RAMP = 0.1  # of the budget, over which the adversary's voice rises to its weight


class PatchDiscriminator(nn.Module):
    """Pictures (and labels) in, a logit for each patch out: above zero means "real"."""

    def __init__(self, options: VaeGanOptions, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.classes, shape.resolution**2) if shape.classes else None
        inputs = shape.channels + (1 if shape.classes else 0)
        widths = [options.discriminator_channels * width for width in (1, 2, 4)]
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        for narrow, wide in pairwise(widths[: 2 if shape.resolution <= 32 else 3]):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(wide), nn.LeakyReLU(LEAK)]
        last = widths[1] if shape.resolution <= 32 else widths[2]
        layers += [nn.Conv2d(last, last, 3, padding=1, bias=False), nn.BatchNorm2d(last), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(last, 1, 1))
        self.apply(initialise)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [N P] for images, float [-1, 1], [N, C, H, W] and, if conditional, their labels [N]."""
        logits: Tensor = self.layers(with_label_map(images, labels, self.embedding))
        return logits.flatten().float()


class VaeGanObjective(VaeSigmaObjective):
    """-ELBO, edges, and the game with a discriminator of patches."""

    def __init__(self, options: VaeGanOptions, shape: Shape, device: torch.device) -> None:
        super().__init__(options, shape, device)
        self.sharpening = options
        self.game = Relativistic()
        self.discriminator = PatchDiscriminator(options, shape).to(device).to(memory_format=torch.channels_last)
        self.discriminators = [self.discriminator]
        optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=options.discriminator_learning_rate, betas=BETAS, fused=True
        )
        self._pictures = torch.empty(0)  # reconstructions of this step: made in phase VAE, judged in phase D
        self.phases = (
            *self.phases,
            Phase("D", self.discriminator, optimizer, self.discriminator_losses, self.discriminator_hyperparameters),
        )

    def discriminator_hyperparameters(self, fraction: float) -> Hyperparameters:
        """What the discriminator's Adam works with when so much of the budget is spent."""
        share = step_share(self.sharpening.schedule, fraction)
        return Hyperparameters(self.sharpening.discriminator_learning_rate * share, BETAS)

    def voice(self, fraction: float) -> float:
        """The adversary's weight when so much of the budget is spent: 0 at first, then rising."""
        done = (fraction - self.sharpening.adversary_from) / RAMP
        return self.sharpening.adversarial_weight * min(1.0, max(0.0, done))

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Nats a picture for likelihood and KL; edges and adversary as what they add at their present scale."""
        means, log_variances = self.network.encoder(batch.images, batch.labels)
        latents = means + (0.5 * log_variances).exp() * batch.latents
        pictures = self.network.decoder(latents, batch.labels)
        self._pictures = leaf = pictures.detach().requires_grad_(True)

        likelihood = negative_log_likelihood(leaf, batch.images)
        (force,) = torch.autograd.grad(likelihood, leaf)
        size = force.norm()
        parts = {"reconstruction": likelihood}
        for name, weight, loss in self._sharpeners(leaf, batch):
            (pull,) = torch.autograd.grad(loss, leaf)
            scale = weight * (size / pull.norm().clamp_min(1e-12)).clamp_max(LOUDEST)
            force = force + scale * pull
            parts[name] = scale * loss
        # What is differentiated is pictures · force, whose gradient at the pictures is the force; what is shown are the parts.
        through = (pictures * force).sum()
        through = through - through.detach()
        divergence = self.divergence(means, log_variances, pictures, batch)
        shown = {name: part.detach() for name, part in parts.items()}
        return {**shown, "reconstruction": shown["reconstruction"] + through, "KL": divergence}

    def _sharpeners(self, leaf: Tensor, batch: Batch) -> list[tuple[str, float, Tensor]]:
        """What pulls besides the likelihood: name, share of the likelihood's force, loss."""
        found = []
        if self.sharpening.laplacian_weight:
            found.append(("edges", self.sharpening.laplacian_weight, laplacian_distance(leaf, batch.images)))
        if voice := self.voice(batch.fraction):
            with frozen(self.discriminator):
                with torch.no_grad():
                    real_logits = self.discriminator(batch.images, batch.labels)
                loss = self.game.generator(real_logits, self.discriminator(leaf, batch.labels))
            found.append(("G", voice, loss))
        return found

    def discriminator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """The game as the discriminator plays it; it learns from the start, so that it knows something when it is heard."""
        fakes, self._pictures = self._pictures.detach(), torch.empty(0)
        real_logits, fake_logits = (self.discriminator(pictures, batch.labels) for pictures in (batch.images, fakes))
        losses = dict(self.game.discriminator(real_logits, fake_logits))
        self.gauges |= {
            "D_real_logit": real_logits.detach().mean(),
            "D_fake_logit": fake_logits.detach().mean(),
            "adversary_weight": self.voice(batch.fraction),
        }
        if batch.number % self.sharpening.penalty_every == 0:
            weight = self.sharpening.gamma / 2 * self.sharpening.penalty_every
            slopes = [
                squared_slope(lambda images: self.discriminator(images, batch.labels), pictures)
                for pictures in (batch.images, fakes)
            ]
            losses["penalty"] = weight * torch.stack(slopes).sum()
        return losses


def laplacian_distance(pictures: Tensor, images: Tensor) -> Tensor:
    """Σ_j 2^j |L_j(x) - L_j(y)|₁, averaged over the batch: L_j is the j-th level of the Laplacian pyramid, from the finest.

    Args:
        pictures: float [N, C, H, W].
        images: of the same shape.

    Returns:
        a scalar, summed over pixels.

    Source: Bojanowski et al. 2018, arXiv:1707.05776, §2, who weigh by 2^-2j with levels counted the other way; averaging and
    nearest neighbours take the place of their Gaussian filters.
    """
    difference, weight, total = pictures - images, 1.0, pictures.new_zeros(())
    while difference.shape[-1] >= 2 * LEVELS_TO_PX:
        coarse = F.avg_pool2d(difference, 2)
        total = total + weight * (difference - F.interpolate(coarse, scale_factor=2)).abs().sum()
        difference, weight = coarse, 2 * weight
    return (total + weight * difference.abs().sum()) / len(pictures)
