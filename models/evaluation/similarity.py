"""MS-SSIM between pairs of pictures of one set: how alike they are.

Shapes: P pairs, C channels, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_PX, WINDOW_SIGMA_PX = 11, 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first; section 3.2 of the paper
_C1, _C2 = 0.01**2, 0.03**2  # for pictures in [0, 1]
_PAIRS_AT_ONCE = 128


def mean_pairwise_similarity(
    images: Tensor, labels: Tensor | None, *, random: torch.Generator, pairs: int = 1000
) -> float:
    """The mean MS-SSIM of random pairs of different pictures; the lower, the more varied the set. 1: all are the same.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N]: pairs are of one class; None: of any.
        random: on the CPU; decides the pairs.
        pairs: how many.

    Returns:
        the mean; NaN where no class has two pictures.

    Source: Odena, Olah and Shlens 2017, arXiv:1610.09585, section 4.2, as a measure of diversity within classes.
    """
    first, second = _draw_pairs(len(images), labels, pairs, random)
    values = [
        ms_ssim(images[first[start:][:_PAIRS_AT_ONCE]], images[second[start:][:_PAIRS_AT_ONCE]])
        for start in range(0, len(first), _PAIRS_AT_ONCE)
    ]
    return float(torch.cat(values).mean()) if values else float("nan")


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale structural similarity of pictures pair by pair.

        Π_s cs_s^w_s · l_S^w_S,   cs = (2 s_xy + C₂) / (s_xx + s_yy + C₂),   l = (2 m_x m_y + C₁) / (m_x² + m_y² + C₁)

    with means m and covariances s under a Gaussian window of 11 pixels. The paper's five scales need 176 pixels; here there
    are as many as leave the window room (two at 32 px, three at 64, four at 128), their weights scaled to sum 1.

    Args:
        first: uint8 [P, C, H, W], at least 11 pixels on a side.
        second: likewise.

    Returns:
        [P], 0 to 1 (negative structure counts as 0); 1 for equal pictures.

    Source: Wang, Simoncelli and Bovik 2003, Multiscale Structural Similarity for Image Quality Assessment, equation (7).
    """
    x, y = first.float() / 255, second.float() / 255
    side = min(x.shape[2:])
    scales = sum(side >> scale >= WINDOW_PX for scale in range(len(WEIGHTS)))
    if scales == 0:
        raise ValueError(f"MS-SSIM needs at least {WINDOW_PX} pixels on a side, got {side}")
    weights = torch.tensor(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    result = torch.ones(len(x))
    for scale, weight in enumerate(weights):
        last = scale == scales - 1
        luminance, structure = _ssim_terms(x, y)  # (P, C, H', W')
        term = (luminance * structure if last else structure).mean(dim=(1, 2, 3))
        result = result * term.clamp(min=0) ** weight
        if not last:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _blurred(images: Tensor) -> Tensor:
    """Means under the window, [P, C, H - 10, W - 10]."""
    channels = images.shape[1]
    reach = torch.arange(WINDOW_PX) - WINDOW_PX // 2
    line = torch.exp(-(reach**2) / (2 * WINDOW_SIGMA_PX**2))
    line = (line / line.sum()).expand(channels, 1, WINDOW_PX)
    down = F.conv2d(images, line[..., None], groups=channels)
    return F.conv2d(down, line[..., None, :], groups=channels)


def _draw_pairs(count: int, labels: Tensor | None, pairs: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of the first and the second pictures, int64 [P] each: never the same picture twice, of one class if labelled."""
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    order = labels.argsort(stable=True)  # class by class
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    first = torch.randint(count, (pairs,), generator=random)
    offset = torch.rand(pairs, generator=random)
    first = first[sizes[labels[order[first]]] > 1]  # places in `order`; a class of one has no pairs
    of_class = labels[order[first]]
    step = 1 + (offset[: len(first)] * (sizes[of_class] - 1)).long()  # 1 to size - 1 further on in its class
    second = starts[of_class] + (first - starts[of_class] + step) % sizes[of_class]
    return order[first], order[second]
