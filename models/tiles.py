"""What `models.winograd` does to tiles of maps besides matrix products, compiled for the processor it runs on.

As tensor operations each of these sums would be a trip through memory; here a tile stays in the processor's nearest cache. Sums
are in the order in which they are written, so that every processor gives the same bits. No interpreter is held meanwhile.

Shapes: N pictures, H W pixels of the smaller maps, C and O channels, m smaller pixels along a tile's side, n = m + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Not fastmath, which may reorder sums. Nor kept on the disk: Numba would pickle it (ARCHITECTURE.md, invariants).
compiled: Callable[[Callable[..., None]], Callable[..., None]] = njit(nogil=True, error_model="numpy")
inlined: Callable[[Callable[..., None]], Callable[..., None]] = njit(inline="always")

#: A of Lavin and Gray's F(m, 2) by m: what a tile's pixels are combined to, [n, m] ...
COMBINED: dict[int, list[list[float]]] = {
    2: [[1, 0], [1, 1], [0, 1]],
    4: [[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 0.5, 0.25, 0.125], [0, 0, 0, 1]],
}
#: ... G, what a filter's two taps are combined to, [n, 2] ...
TAPS: dict[int, list[list[float]]] = {
    2: [[1, 0], [1, 1], [0, -1]],
    4: [[1, 0], [1, 1], [0.5, -0.5], [8 / 3, 4 / 3], [0, 0.5]],
}
#: ... and B, how n outputs come from the products, [n, n]. The points are 0, 1, infinity and for m = 4 also -1 and 1/2.
SUMMED: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [-1, 1, 1], [0, 0, -1]],
    4: [
        [1, 0, 0, 0, 0],
        [-2, -0.5, -1 / 3, 1, 1],
        [-1, 0.5, 1, 0, -2],
        [2, 1, -2 / 3, -1, -1],
        [0, 0, 0, 0, 2],
    ],
}
MOST_TERMS = 5  # of a sum


NO_LEAST = np.float32(-np.inf)


class Sums(NamedTuple):
    """Weighted sums of rows, each of at most MOST_TERMS."""

    factors: Floats  # [sums, MOST_TERMS]; those that are not needed are zero
    places: NDArray[np.int64]  # [sums, MOST_TERMS], of the rows

    @classmethod
    def of(cls, matrix: list[list[float]]) -> Sums:
        """From the factors of each sum, for all rows, zeros included."""
        shape = len(matrix), MOST_TERMS
        factors, places = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
        for row, dense in enumerate(matrix):
            told = [(factor, place) for place, factor in enumerate(dense) if factor]
            factors[row, : len(told)], places[row, : len(told)] = zip(*told, strict=True)
        return cls(factors, places)


class Filter(NamedTuple):
    """How m inputs of a side are doubled with n products for even pixels and n for odd ones."""

    combined: Sums  # of a tile's pixels, for what is multiplied: n
    taps: NDArray[np.float64]  # of a filter's four, for what even and odd pixels are multiplied with: [2, n, 4]
    summed: Sums  # of products, for outputs: n


@cache
def filtering(m: int) -> Filter:
    """Return how tiles of m smaller pixels a side are computed; m is 2 or 4."""
    taps = np.zeros((2, m + 1, 4))
    taps[0][:, [1, 3]] = taps[1][:, [0, 2]] = TAPS[m]
    return Filter(Sums.of(COMBINED[m]), taps, Sums.of(SUMMED[m]))


@inlined
def _combine(sums: Any, row: int, source: Any, start: int, step: int, target: Any, at: int) -> None:
    """Fill target[at], [C], with a sum of rows of `source`, whose place p is at `start` + p `step`."""
    factors, places = sums
    a, b, c, d, e = factors[row, 0], factors[row, 1], factors[row, 2], factors[row, 3], factors[row, 4]
    one, two, three = start + step * places[row, 0], start + step * places[row, 1], start + step * places[row, 2]
    four, five = start + step * places[row, 3], start + step * places[row, 4]
    if b == 0:
        for k in range(source.shape[1]):
            target[at, k] = a * source[one, k]
    elif e == 0:
        for k in range(source.shape[1]):
            target[at, k] = a * source[one, k] + b * source[two, k] + c * source[three, k] + d * source[four, k]
    else:
        for k in range(source.shape[1]):
            total = a * source[one, k] + b * source[two, k] + c * source[three, k] + d * source[four, k]
            target[at, k] = total + e * source[five, k]


@compiled
def spread(maps: Any, size: Any, m: int, first: int, combined: Any, across: Any, columns: Any) -> None:
    """Fill `across` with what tiles, from the `first` on, are multiplied by.

    Args:
        maps: [N H W, C].
        size: H and W.
        m: pixels along a tile's side; tiles are numbered by picture, row and column.
        first: number of the first tile.
        combined: as in Filter.
        across: [T n^2, C] for T tiles: by tile, by pair of combinations.
        columns: for what lies between, [m, C].
    """
    height, width = size
    n = m + 1
    count = len(across) // n**2
    down, right = height // m, width // m
    for t in range(count):
        number = first + t
        picture, top, left = number // (down * right), m * (number // right % down), m * (number % right)
        start = (picture * height + top) * width + left
        for i in range(n):
            for x in range(m):
                _combine(combined, i, maps, start + x, width, columns, x)
            for j in range(n):
                _combine(combined, j, columns, 0, 1, across, (t * n + i) * n + j)


@inlined
def _add(
    sums: Any, row: int, source: Any, start: int, bias: Any, begins: bool, least: Any, target: Any, at: int
) -> None:
    """Add a sum of neighbouring rows of `source` to target[at], [O], which is `bias` where it begins; at least `least`."""
    factors, places = sums
    a, b, c, d, e = factors[row, 0], factors[row, 1], factors[row, 2], factors[row, 3], factors[row, 4]
    one, two, three = start + places[row, 0], start + places[row, 1], start + places[row, 2]
    four, five = start + places[row, 3], start + places[row, 4]
    if begins:
        for k in range(len(bias)):
            target[at, k] = bias[k]
    if b == 0:
        for k in range(len(bias)):
            target[at, k] = max(target[at, k] + a * source[one, k], least)
    else:
        for k in range(len(bias)):
            total = a * source[one, k] + b * source[two, k] + c * source[three, k] + d * source[four, k]
            target[at, k] = max(target[at, k] + (total + e * source[five, k]), least)


@compiled
def gather(
    made: Any, size: Any, m: int, first: int, summed: Any, bias: Any, least: Any, doubled: Any, columns: Any
) -> None:
    """Sum products to the pixels of tiles, from the `first` on; each outreaches its tile by one, where neighbours add up.

    Args:
        made: [T n^2 4, O] for T tiles: by tile, by pair of combinations, by phase.
        size: H and W, of the smaller maps.
        m: as for `spread`.
        first: as for `spread`.
        summed: as in Filter.
        bias: [O].
        least: what no pixel is less than.
        doubled: [N 2H 2W, O], to be filled.
        columns: for what lies between, [4 n^2, O].
    """
    height, width = size
    n = m + 1
    count = len(made) // (4 * n**2)
    down, right = height // m, width // m
    for t in range(count):
        number = first + t
        picture, row, column = number // (down * right), number // right % down, number % right
        for phase in range(4):
            for i in range(n):
                for j in range(n):
                    start = 4 * (t * n**2 + j) + phase
                    _combine(summed, i, made, start, 4 * n, columns, (phase * n + i) * n + j)
        for phase in range(4):
            for i in range(n):
                y = 2 * (m * row + i) - phase // 2
                for j in range(n):
                    x = 2 * (m * column + j) - phase % 2
                    if 0 <= y < 2 * height and 0 <= x < 2 * width:
                        begins = (i > 0 or row == 0) and (j > 0 or column == 0)
                        ends = (i < m or row == down - 1) and (j < m or column == right - 1)
                        place = (picture * 2 * height + y) * 2 * width + x
                        floor = least if ends else NO_LEAST
                        _add(summed, j, columns, (phase * n + i) * n, bias, begins, floor, doubled, place)


@compiled
def add_patches(made: Any, bias: Any, doubled: Any) -> None:
    """Sum patches of 4x4 pixels, [N, H, W, 4, 4, O], two pixels apart, to [N, 2H, 2W, O], which they outreach by one."""
    pictures, height, width, _, _, outputs = made.shape
    for n in range(pictures):
        for y in range(2 * height):
            # Of the patches that reach an even row, one's second and the one above's fourth do; of an odd row, the third of
            # one and the first of the one below.
            near, far = y // 2, (y + 1) // 2 if y % 2 else y // 2 - 1
            near_row, far_row = 1 + y % 2, 0 if y % 2 else 3
            for x in range(2 * width):
                beside, beyond = x // 2, (x + 1) // 2 if x % 2 else x // 2 - 1
                near_column, far_column = 1 + x % 2, 0 if x % 2 else 3
                for c in range(outputs):
                    total = bias[c] + made[n, near, beside, near_row, near_column, c]
                    if 0 <= beyond < width:
                        total += made[n, near, beyond, near_row, far_column, c]
                    if 0 <= far < height:
                        total += made[n, far, beside, far_row, near_column, c]
                        if 0 <= beyond < width:
                            total += made[n, far, beyond, far_row, far_column, c]
                    doubled[n, y, x, c] = total
