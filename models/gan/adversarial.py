"""The adversarial objective: one generator against one or more discriminators, with the remedies that options name.

With the default options it is the classic game, step for step: fakes are made once, judged in phase D, and judged again in
phase G by the discriminator that has just learnt.

Shapes: N batch, C channels, H W pixels, D latent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.augment import augmented
from models.gan.losses import GAMES
from models.gan.penalties import squared_slope, squared_slope_along, unit_slope
from models.objective import Batch, Hyperparameters, Phase, frozen
from models.options import GanOptions
from models.precision import is_lowered
from models.schedule import step_share


class AdversarialObjective:
    """A game between networks.

    Args:
        options: which game, which remedies.
        generator: `(latents [N, D], labels [N] | None) -> float [-1, 1], [N, C, H, W]`.
        discriminators: each `(images, labels) -> logits [N]`; several share one phase, and their losses are averaged.
        device: where to train.
    """

    def __init__(
        self, options: GanOptions, generator: nn.Module, discriminators: Sequence[nn.Module], device: torch.device
    ) -> None:
        self.options = options
        self.game = GAMES[options.loss]
        if options.spectral_norm:
            for judge in discriminators:
                for layer in list(judge.modules()):
                    if isinstance(layer, nn.Conv2d | nn.Linear):
                        spectral_norm(layer)
        self.generator = generator.to(device).to(memory_format=torch.channels_last)
        self.discriminators: Sequence[nn.Module] = [
            one.to(device).to(memory_format=torch.channels_last) for one in discriminators
        ]
        judges = self.discriminators[0] if len(discriminators) == 1 else nn.ModuleList(self.discriminators)
        self.gauges: dict[str, Tensor | float] = {}
        self._fakes = torch.empty(0)  # of this step: made in phase D, judged again in phase G
        of_judges = options.discriminator_learning_rate or options.learning_rate
        self.phases: tuple[Phase, ...] = (
            self._phase("D", judges, of_judges, self.discriminator_losses),
            self._phase("G", self.generator, options.learning_rate, self.generator_losses),
        )

    def _phase(
        self, name: str, module: nn.Module, learning_rate: float, losses: Callable[[Batch], Mapping[str, Tensor]]
    ) -> Phase:
        start = self.hyperparameters(learning_rate, 0.0)
        optimizer = torch.optim.Adam(module.parameters(), lr=start.learning_rate, betas=start.betas, fused=True)
        return Phase(name, module, optimizer, losses, partial(self.hyperparameters, learning_rate))

    def hyperparameters(self, learning_rate: float, fraction: float) -> Hyperparameters:
        """What Adam works with when so much of the budget is spent."""
        return Hyperparameters(learning_rate * step_share(self.options.schedule, fraction), (self.options.beta1, 0.999))

    def gamma(self, fraction: float) -> float:
        """The penalty's weight when so much of the budget is spent."""
        return self.options.gamma

    def judged_real(
        self, judge: nn.Module, images: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A discriminator's logits for real pictures, and what else it learns from them: losses by name."""
        logits: Tensor = judge(images, labels)
        return logits, {}

    def discriminator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Both sides of the game as the discriminators play it, and the penalty where it is due.

        Watched beside it: the mean logits, and R_t = E sign(D(x)) of the training images, whose rise to 1 is how a
        discriminator learns them by heart (Karras et al. 2020, arXiv:2006.06676, equation 1).
        """
        self._fakes = self.generator(batch.latents, batch.labels)
        if self.options.penalty != "none":
            self.gauges["gamma"] = self.gamma(batch.fraction)
        parts: list[Mapping[str, Tensor]] = [self._judged(judge, batch) for judge in self.discriminators]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    @torch.no_grad()
    def judged(self, images: Tensor, labels: Tensor | None) -> Tensor:
        judge = copy.deepcopy(self.discriminators[0])  # looking may move its statistics
        return _judge(judge, labels, images)

    def _judged(self, judge: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One discriminator's losses."""
        real = augmented(batch.images, self.options.augment, batch.random)
        fake = augmented(self._fakes.detach(), self.options.augment, batch.random)
        real_logits, further = self.judged_real(judge, real, batch.labels)
        fake_logits = judge(fake, batch.labels)
        losses = {**self.game.discriminator(real_logits, fake_logits), **further}
        if judge is self.discriminators[0]:
            self.gauges |= {
                "D_real_logit": real_logits.detach().mean(),
                "D_fake_logit": fake_logits.detach().mean(),
                "R_t": real_logits.detach().sign().mean(),
            }
        if self.options.penalty != "none" and batch.number % self.options.penalty_every == 0:
            of_pictures = partial(_judge, judge, batch.labels)
            weight = self.gamma(batch.fraction) * self.options.penalty_every
            precise = not is_lowered(real.device)
            if self.options.penalty == "wgan-gp":
                losses["penalty"] = weight * unit_slope(of_pictures, real, fake, batch.random)
            else:
                points = [(real, real_logits), (fake, fake_logits)][: 1 if self.options.penalty == "r1" else 2]
                slopes = [
                    squared_slope(of_pictures, images)
                    if self.options.penalty_form == "exact"
                    else squared_slope_along(of_pictures, logits if precise else None, images, batch.random)
                    for images, logits in points
                ]
                losses["penalty"] = weight / 2 * torch.stack(slopes).sum()
        return losses

    def generator_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """The game as the generator plays it, and what keeps its pictures apart."""
        fakes, self._fakes = self._fakes, torch.empty(0)
        parts = []
        for judge in self.discriminators:
            with frozen(judge):
                real_logits = None
                if self.game.compares:
                    with torch.no_grad():
                        real_logits = judge(augmented(batch.images, self.options.augment, batch.random), batch.labels)
                parts.append(
                    self.game.generator(
                        real_logits, judge(augmented(fakes, self.options.augment, batch.random), batch.labels)
                    )
                )
        losses = {"G": torch.stack(parts).mean()}
        if self.options.mode_seeking:
            losses["alike"] = self.options.mode_seeking * alikeness(fakes, batch.latents, batch.labels)
        return losses


def _judge(judge: nn.Module, labels: Tensor | None, images: Tensor) -> Tensor:
    logits: Tensor = judge(images, labels)
    return logits


def alikeness(fakes: Tensor, latents: Tensor, labels: Tensor | None) -> Tensor:
    """How little pictures differ for how much their latents do, between the batch's halves; pairs of two classes do not count.

        E |z - z'|₁ / (|G(z) - G(z')|₁ + 10⁻⁵),      both as means over their numbers

    Args:
        fakes: float [N, C, H, W].
        latents: what they were developed from, float [N, D].
        labels: their classes, int64 [N], or None.

    Source: Mao et al. 2019, Mode Seeking Generative Adversarial Networks, arXiv:1903.05628, equation (3), as the loss of
    their released form: the reciprocal, minimised.
    """
    half = len(fakes) // 2
    apart = (fakes[:half] - fakes[half : 2 * half]).abs().mean(dim=(1, 2, 3))
    moved = (latents[:half] - latents[half : 2 * half]).abs().mean(dim=1)
    ratio = moved / (apart + 1e-5)
    if labels is None:
        return ratio.mean()
    same = labels[:half] == labels[half : 2 * half]
    return torch.where(same, ratio, 0).sum() / same.sum().clamp_min(1)
