"""What discriminator and generator play for: each game is a pair of losses on logits.

Shapes: N batch. Logits are float [N]; above zero means "real".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from models.options import Loss


class Game(Protocol):
    """Both sides' losses."""

    compares: bool  # whether the generator's loss reads the logits of real pictures

    def discriminator(self, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        """Scalars by name; the discriminator minimises their sum."""
        ...

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """A scalar; the generator minimises it. `real` is needed where the game compares."""
        ...


class Bce:
    """The classic game, the generator's side in the form that does not saturate.

        L_D = -E log D(x) - E log(1 - D(G(z)))      L_G = -E log D(G(z)),      D = sigmoid(logit)

    Source: Goodfellow et al. 2014, arXiv:1406.2661, §3. log(1 - sigmoid(a)) = -softplus(a).
    """

    compares = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        return {"D_real": F.softplus(-real).mean(), "D_fake": F.softplus(fake).mean()}

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge:
    """The game with margins: who is right by more than 1 has nothing to learn.

        L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))      L_G = -E D(G(z))

    Source: Lim and Ye 2017, arXiv:1705.02894, equations (11) and (12).
    """

    compares = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        return {"D_real": F.relu(1 - real).mean(), "D_fake": F.relu(1 + fake).mean()}

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


class Wasserstein:
    """The game of the earth mover; it needs a penalty that keeps the discriminator from being steep.

        L_D = E D(G(z)) - E D(x)      L_G = -E D(G(z))

    Source: Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, equation (3).
    """

    compares = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        return {"D_real": -real.mean(), "D_fake": fake.mean()}

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()


class Relativistic:
    """Each fake against a real picture, so that no mode of the data can be left out for free.

        L_D = E softplus(-(D(x) - D(G(z))))      L_G = E softplus(-(D(G(z)) - D(x)))

    Source: Jolicoeur-Martineau 2018, arXiv:1807.00734, §3.1, in the form of Huang et al. 2025 (R3GAN), arXiv:2501.05441,
    equation (3).
    """

    compares = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        return {"D": F.softplus(fake - real).mean()}

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        assert real is not None
        return F.softplus(real - fake).mean()


GAMES: Mapping[Loss, Game] = MappingProxyType(
    {"bce": Bce(), "hinge": Hinge(), "wasserstein": Wasserstein(), "relativistic": Relativistic()}
)
