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

#: B^T of Lavin and Gray's F(m, 2) by m: what pixels are combined to, [n, n] ...
COMBINED: dict[int, list[list[float]]] = {
    2: [[1, -1, 0], [0, 1, 0], [0, 1, -1]],
    4: [[1, -2, -1, 2, 0], [0, -0.5, 0.5, 1, 0], [0, -1 / 3, 1, -2 / 3, 0], [0, 1, 0, -1, 0], [0, 1, -2, -1, 2]],
}
#: ... G, what a filter's two taps are combined to, [n, 2] ...
TAPS: dict[int, list[list[float]]] = {
    2: [[1, 0], [1, 1], [0, -1]],
    4: [[1, 0], [1, 1], [0.5, -0.5], [8 / 3, 4 / 3], [0, 0.5]],
}
#: ... and A^T, how m outputs come from the products, [m, n]. The points are 0, 1, infinity and for m = 4 also -1 and 1/2.
SUMMED: dict[int, list[list[float]]] = {
    2: [[1, 1, 0], [0, 1, 1]],
    4: [[1, 1, 1, 1, 0], [0, 1, -1, 0.5, 0], [0, 1, 1, 0.25, 0], [0, 1, -1, 0.125, 1]],
}


NO_LEAST = np.float32(-np.inf)


class Sums(NamedTuple):
    """Weighted sums of rows, each of at most four."""

    factors: Floats  # [sums, 4]; those that are not needed are zero
    places: NDArray[np.int64]  # [sums, 4], of the rows

    @classmethod
    def of(cls, matrix: list[list[float]]) -> Sums:
        """From the factors of each sum, for all rows, zeros included."""
        factors, places = np.zeros((len(matrix), 4), np.float32), np.zeros((len(matrix), 4), np.int64)
        for row, dense in enumerate(matrix):
            told = [(factor, place) for place, factor in enumerate(dense) if factor]
            factors[row, : len(told)], places[row, : len(told)] = zip(*told, strict=True)
        return cls(factors, places)


class Filter(NamedTuple):
    """How m outputs of two taps are computed with n products, along a side: first for even pixels, then for odd ones."""

    combined: Sums  # of a tile's pixels, for what is multiplied: 2n - 1
    taps: NDArray[np.float64]  # of a transposed convolution's four for what it is multiplied with, [2n, 4]
    summed: Sums  # of products, for outputs: m


@cache
def filtering(m: int) -> Filter:
    """Return how tiles of m smaller pixels a side are computed; m is 2 or 4."""
    n = m + 1
    # n combinations of the tile's first n pixels, and n of its last n; the last of the former is the first of the latter.
    combined = Sums.of([[*row, 0] for row in COMBINED[m]] + [[0, *row] for row in COMBINED[m]])
    taps = np.zeros((2 * n, 4))
    taps[:n, [3, 1]] = taps[n:, [2, 0]] = TAPS[m]
    return Filter(combined, taps, Sums.of(SUMMED[m]))


@inlined
def _combine(sums: Any, row: int, source: Any, start: int, step: int, least: Any, target: Any, at: int) -> None:
    """Fill target[at], [C], with a sum of rows of `source`, or `least`; its place p is at `start` + p `step`."""
    factors, places = sums
    a, b, c, d = factors[row, 0], factors[row, 1], factors[row, 2], factors[row, 3]
    one, two = start + step * places[row, 0], start + step * places[row, 1]
    three, four = start + step * places[row, 2], start + step * places[row, 3]
    if c == 0:
        for k in range(source.shape[1]):
            target[at, k] = max(a * source[one, k] + b * source[two, k], least)
    else:
        for k in range(source.shape[1]):
            total = a * source[one, k] + b * source[two, k] + c * source[three, k] + d * source[four, k]
            target[at, k] = max(total, least)


@compiled
def spread(maps: Any, size: Any, m: int, first: int, combined: Any, across: Any, columns: Any, tile: Any) -> None:
    """Fill `across` with what tiles, from the `first` on, are multiplied by.

    Args:
        maps: [N H W, C]; what lies beyond a map's edges is zero.
        size: H and W.
        m: pixels along a tile's side; tiles are numbered by picture, row and column.
        first: number of the first tile.
        combined: as in Filter.
        across: [(2n - 1)^2 T, C] for T tiles, those of a pair of combinations beside each other.
        columns: for what lies between, [m + 2, C].
        tile: as well, [(m + 2)^2, C].
    """
    height, width = size
    kinds, reach = 2 * m + 2, m + 2
    count = len(across) // kinds**2
    down, right = height // m, width // m
    for t in range(count):
        number = first + t
        picture, top, left = number // (down * right), m * (number // right % down) - 1, m * (number % right) - 1
        for y in range(reach):
            for x in range(reach):
                if 0 <= top + y < height and 0 <= left + x < width:
                    place = (picture * height + top + y) * width + left + x
                    for c in range(maps.shape[1]):
                        tile[y * reach + x, c] = maps[place, c]
                else:
                    for c in range(maps.shape[1]):
                        tile[y * reach + x, c] = 0
        for i in range(kinds):
            for x in range(reach):
                _combine(combined, i, tile, x, reach, NO_LEAST, columns, x)
            for j in range(kinds):
                _combine(combined, j, columns, 0, 1, NO_LEAST, across, (kinds * i + j) * count + t)


@compiled
def gather(
    made: Any, size: Any, m: int, first: int, summed: Any, bias: Any, least: Any, doubled: Any, columns: Any
) -> None:
    """Sum products to the pixels of tiles, from the `first` on.

    Args:
        made: [(2n)^2 T, O] for T tiles, those of a pair of taps beside each other.
        size: H and W, of the smaller maps.
        m: as for `spread`.
        first: as for `spread`.
        summed: as in Filter.
        bias: [O].
        least: what no pixel is less than.
        doubled: [N 2H 2W, O], to be filled.
        columns: for what lies between, [2n 2m, O].
    """
    height, width = size
    n, side = m + 1, 2 * m
    count = len(made) // (2 * n) ** 2
    down, right = height // m, width // m
    for t in range(count):
        number = first + t
        picture, top, left = number // (down * right), side * (number // right % down), side * (number % right)
        for i in (1, n + 1):
            for j in (1, n + 1):  # of these products each pixel holds one
                for c in range(len(bias)):
                    made[(2 * n * i + j) * count + t, c] += bias[c]
        for i in range(2 * n):
            for x in range(side):
                start = (2 * n * i + n * (x % 2)) * count + t
                _combine(summed, x // 2, made, start, count, NO_LEAST, columns, side * i + x)
        for y in range(side):
            for x in range(side):
                place = (picture * 2 * height + top + y) * 2 * width + left + x
                _combine(summed, y // 2, columns, side * n * (y % 2) + x, side, least, doubled, place)


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
