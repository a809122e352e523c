"""Which prepared images are the same picture twice: byte for byte by the hash of the file, or nearly by how they look.

Near duplicates are found by difference hashes (which of two neighbouring fields is brighter) of 8 by 8 fields along rows and
along columns, 128 bits in all, and confirmed by comparing small copies of the pictures. To compare every image with every
other would take hours for 500,000 of them. Two hashes that differ in at most 7 of 128 bits agree on at least one of eight
bands of 16 bits (the pigeonhole principle), so only images that share a band are compared, and in each band an image with the
next 255 that share it at most: time and memory grow with the number of images alone. What this bound can cost is a pair in
a set where thousands of pictures share a band; groups form through what lies between, so copies seldom stay unseen.

N images, C channels, H W pixels.

Source: difference hashes, N. Krawetz, "Kind of Like That", 2013, https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html;
bands, G. S. Manku, A. Jain and A. Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from models.manifest import Duplicates

FIELDS = 8  # on a side, of a hash and of a small copy
MOST_BITS = 7  # of 128 in which near duplicates may differ
MOST_LEVELS = 16  # of 255 by which any field of their small copies may differ
_STEP = 1.0  # levels by which a field must be brighter to count: flat areas are no brighter for a little noise
_BANDS = 8
_REACH = 255

_Index = npt.NDArray[np.intp]


def find_duplicates(
    blocks: Iterable[npt.NDArray[np.uint8]], hashes: Sequence[str], poll: Callable[[], None] = lambda: None
) -> Duplicates:
    """The images of prepared data that are there more than once.

    Args:
        blocks: of pixels, uint8 [n, C, H, W], N in all; each is looked at once and not kept.
        hashes: of the files, N.
        poll: called now and then; may raise.

    Returns:
        the groups, by their first member.
    """
    first: dict[str, int] = {}
    union = _Union(len(hashes))
    for index, value in enumerate(hashes):
        union.join(first.setdefault(value, index), index)
    exact = union.groups()
    union.settle()
    looks = []
    for block in blocks:
        looks.append(_looks(block))
        poll()
    if looks:
        fingerprints, copies = (np.concatenate(parts) for parts in zip(*looks, strict=True))
        _join_similar(union, fingerprints, copies, poll)
    near = [group for group in union.groups() if len({hashes[index] for index in group}) > 1]
    return Duplicates(exact, near)


def _looks(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """Hashes, uint64 [n, 2], and small copies, uint8 [n, C * 64]."""
    side = pixels.shape[2]
    narrow, wide = _means(side, FIELDS), _means(side, FIELDS + 1)  # [8, H], [9, H]
    values = pixels.astype(np.float32)  # [n, C, H, W]
    grey = values.mean(axis=1)  # [n, H, W]
    across, down = narrow @ grey @ wide.T, wide @ grey @ narrow.T  # [n, 8, 9], [n, 9, 8]
    bits = np.stack([np.diff(across, axis=2) > _STEP, np.diff(down, axis=1) > _STEP], axis=1)  # [n, 2, 8, 8]
    hashes = np.packbits(bits.reshape(len(pixels), 2, 64), axis=2).view(np.uint64)[..., 0]
    return hashes, np.rint(narrow @ values @ narrow.T).astype(np.uint8).reshape(len(pixels), -1)


def _means(side: int, fields: int) -> npt.NDArray[np.float32]:
    """The matrix [fields, side] that takes means over equal parts of a row of pixels, which share pixels at their edges."""
    edges = np.linspace(0, side, fields + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    places = np.arange(side)[None]
    overlaps = np.clip(np.minimum(ends, places + 1) - np.maximum(starts, places), 0, None)
    means: npt.NDArray[np.float32] = (overlaps / overlaps.sum(axis=1, keepdims=True)).astype(np.float32)
    return means


def _join_similar(
    union: _Union, fingerprints: npt.NDArray[np.uint64], copies: npt.NDArray[np.uint8], poll: Callable[[], None]
) -> None:
    bands = fingerprints.view(np.uint16)  # [N, 8]
    for band in range(_BANDS):
        keys = bands[:, band]
        order = np.lexsort((fingerprints[:, 1], fingerprints[:, 0], keys))  # equal hashes side by side
        ordered = keys[order]
        starts = np.arange(len(order) - 1)  # places in the order whose neighbour `step` further on shares their band
        for step in range(1, _REACH + 1):
            starts = starts[: np.searchsorted(starts, len(order) - step)]
            starts = starts[ordered[starts] == ordered[starts + step]]
            if not len(starts):
                break
            poll()
            _join_if_similar(union, order[starts], order[starts + step], fingerprints, copies)


def _join_if_similar(
    union: _Union,
    left: _Index,
    right: _Index,
    fingerprints: npt.NDArray[np.uint64],
    copies: npt.NDArray[np.uint8],
) -> None:
    """Joins each pair (left[i], right[i]) that looks alike and is not joined yet."""
    apart = union.roots[left] != union.roots[right]
    left, right = left[apart], right[apart]
    bits = np.bitwise_count(fingerprints[left] ^ fingerprints[right]).sum(axis=1)
    left, right = left[bits <= MOST_BITS], right[bits <= MOST_BITS]
    for start in range(0, len(left), 65_536):
        one, other = left[start : start + 65_536], right[start : start + 65_536]
        levels = np.abs(copies[one].astype(np.int16) - copies[other]).max(axis=1)
        union.join_all(one[levels <= MOST_LEVELS], other[levels <= MOST_LEVELS])


class _Union:
    """Which of N things belong together; the root of a group is its first member."""

    def __init__(self, count: int) -> None:
        self.roots: _Index = np.arange(count)  # lags behind until it settles; following it leads to the root

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        self.roots[high] = low

    def join_all(self, ones: Iterable[np.intp], others: Iterable[np.intp]) -> None:
        """Joins each pair and settles."""
        for one, other in zip(ones, others, strict=True):
            self.join(int(one), int(other))
        self.settle()

    def settle(self) -> None:
        """Brings the roots up to date."""
        while not np.array_equal(self.roots, further := self.roots[self.roots]):
            self.roots = further

    def groups(self) -> list[list[int]]:
        """The groups of at least two, by their first members."""
        members: dict[int, list[int]] = {}
        for index in range(len(self.roots)):
            members.setdefault(self._root(index), []).append(index)
        return [group for group in members.values() if len(group) > 1]

    def _root(self, index: int) -> int:
        while (above := int(self.roots[index])) != index:
            self.roots[index] = self.roots[above]
            index = above
        return index
