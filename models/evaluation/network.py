"""The extractor's network, and the two lessons that it can be taught: labels, or telling pictures apart.

Shapes: N batch, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (128, 64, 32)  # of the stages, last first; any before these are half as wide as the third
EMBEDDING = 64  # numbers that outputs are read from
FEATURES = WIDTHS[1] + EMBEDDING  # F: few enough that a covariance can be estimated from some hundred images
TEMPERATURE = 0.2  # of the contrastive loss


class FeatureNetwork(nn.Module):
    """A small convolutional network; each stage halves the picture, down to 4 to 7 pixels.

    Features are of two depths: what outputs are read from, and the means of the last stage but one. The first alone would
    be blind: a classifier may well read pure noise as a shoe, and put it in the middle of real ones.

    Args:
        resolution: pixels on a side.
        channels: 1 or 3.
        outputs: classes, or the size of the projection that pictures are told apart in.
    """

    mean: Tensor  # (F,) of the raw features of the images that it learnt from
    scale: Tensor  # (F,) their standard deviation

    def __init__(self, resolution: int, channels: int, outputs: int) -> None:
        super().__init__()
        halvings = max(1, (resolution // 4).bit_length() - 1)
        widths = [WIDTHS[index] if index < len(WIDTHS) else WIDTHS[-1] // 2 for index in range(halvings)][::-1]
        stages = []
        for narrow, wide in zip([channels, *widths], widths, strict=False):
            layers: list[nn.Module] = [
                nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
            if wide >= WIDTHS[1]:  # a second look where pixels are few
                layers += [nn.Conv2d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            stages.append(nn.Sequential(*layers))
        self.textures = nn.Sequential(*stages[:-1])
        self.forms = stages[-1]
        self.embed = nn.Linear(widths[-1], EMBEDDING)
        self.read = nn.Linear(EMBEDDING, outputs)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw features [N, F] and outputs [N, K] of images, float [-1, 1], [N, C, H, W]."""
        textures = self.textures(images)
        embedding = self.embed(self.forms(textures).mean(dim=(2, 3)))
        outputs: Tensor = self.read(F.relu(embedding))
        return torch.cat([textures.mean(dim=(2, 3)), embedding], dim=1), outputs

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, F], of mean 0 and variance 1 over the images learnt from, and outputs [N, K]."""
        raw, outputs = self.look(images)
        return (raw - self.mean) / self.scale, outputs


def label_loss(network: FeatureNetwork, images: Tensor, labels: Tensor | None, random: torch.Generator) -> Tensor:
    """Cross-entropy of the labels, int64 [N], on images that were shifted and stretched a little."""
    assert labels is not None
    _, outputs = network.look(warped(images, random, smallest=0.93))
    return F.cross_entropy(outputs, labels)


def contrast_loss(network: FeatureNetwork, images: Tensor, _labels: Tensor | None, random: torch.Generator) -> Tensor:
    """Each picture is to be told from all others by another view of it, whatever their labels.

        -log exp(sim(z, z') / τ) / Σ_{k ≠ z} exp(sim(z, z_k) / τ),  sim the cosine

    Views are crops with another brightness and contrast. They are not mirrored: that a letter is not its mirror image is
    something features should see.

    Source: NT-Xent of Chen et al. 2020 (SimCLR), arXiv:2002.05709, equation (1).
    """
    views = torch.cat([_relit(warped(images, random, smallest=0.5), random) for _ in range(2)])
    projected = F.normalize(network.look(views)[1], dim=1)  # (2 N, K)
    count = len(images)
    similarity = projected @ projected.T / TEMPERATURE
    similarity = similarity.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=images.device), -torch.inf)
    partner = torch.arange(2 * count, device=images.device).roll(count)
    return F.cross_entropy(similarity, partner)


def warped(images: Tensor, random: torch.Generator, *, smallest: float) -> Tensor:
    """A random window of each picture, at least `smallest` of its sides, stretched over the whole; each side by itself."""
    count = len(images)
    size = smallest + (1 - smallest) * torch.rand(count, 2, generator=random)
    centre = (1 - size) * (2 * torch.rand(count, 2, generator=random) - 1)  # the window stays inside
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = size[:, 0], size[:, 1]
    matrix[:, :, 2] = centre
    where = F.affine_grid(matrix.to(images.device), list(images.shape), align_corners=False)
    seen: Tensor = F.grid_sample(images, where, padding_mode="reflection", align_corners=False)
    return seen


def _relit(images: Tensor, random: torch.Generator) -> Tensor:
    """Another contrast (0.6 to 1.4) and brightness (±0.3) for each picture."""
    contrast, brightness = torch.rand(2, len(images), 1, 1, 1, generator=random).to(images.device) * 2 - 1
    relit: Tensor = images * (1 + 0.4 * contrast) + 0.3 * brightness
    return relit
