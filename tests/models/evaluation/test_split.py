"""What an image is for follows from its file alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.evaluation.split import Split, split
from models.manifest import Manifest
from tests.models.conftest import Prepare


def _hashes(manifest: Manifest, parts: Split) -> list[list[str]]:
    return [[manifest.images[index].sha256 for index in part] for part in (parts.study, parts.control, parts.reference)]


def test_every_image_is_in_one_part_and_the_parts_have_their_shares(prepared: Prepare) -> None:
    manifest = prepared(1000).manifest
    parts = split(manifest)
    together = [*parts.study.tolist(), *parts.control.tolist(), *parts.reference.tolist()]
    assert sorted(together) == list(range(1000))
    sizes = [len(part) for part in (parts.study, parts.control, parts.reference)]
    assert sizes == [pytest.approx(600, abs=50), pytest.approx(200, abs=40), pytest.approx(200, abs=40)]


def test_order_names_and_company_do_not_matter(prepared: Prepare) -> None:
    """Given half of the images in another order under other names, I expect each in the part where it was."""
    manifest = prepared(200).manifest
    fewer = [replace(image, path=f"other/{image.path}") for image in reversed(manifest.images[:100])]
    half_manifest = replace(manifest, count=100, images=fewer)
    whole, half = _hashes(manifest, split(manifest)), _hashes(half_manifest, split(half_manifest))
    for all_of_part, some_of_part in zip(whole, half, strict=True):
        assert [sha256 for sha256 in all_of_part if sha256 in set(some_of_part)] == some_of_part


def test_copies_of_a_file_are_in_one_part(prepared: Prepare) -> None:
    manifest = prepared(20).manifest
    twice = replace(manifest, count=40, images=[*manifest.images, *manifest.images])
    for part in _hashes(twice, split(twice)):
        assert all(part.count(sha256) == 2 for sha256 in part)
