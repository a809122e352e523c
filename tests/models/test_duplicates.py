"""Copies of files are found by their hash, near duplicates by their looks; what only resembles another is left alone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from models import duplicates
from models.catalog import DuplicatePolicy
from models.duplicates import find_duplicates
from models.entries import Limits
from models.evaluation.split import learnt_and_held_out, split
from models.manifest import Duplicates, Manifest, PreparedImage
from models.prepare import prepare
from tests.pictures import Pixels


def scene(seed: int, side: int = 96) -> Image.Image:
    """Light, colours and a few discs, no two seeds alike."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    values = np.zeros((side, side, 3))
    for _ in range(12):
        y, x, radius = random.uniform(0, 1, 3)
        values += (np.hypot(rows - y, columns - x) < radius * 0.4)[..., None] * random.uniform(0, 120, 3)
    values += random.uniform(0, 80, 3) * rows[..., None] + random.normal(0, 3, values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def folder_with_copies(directory: Path) -> Path:
    """Ten scenes; of the first a copy of its file, a JPEG and a smaller one; of the second a copy of its file."""
    directory.mkdir()
    for seed in range(10):
        scene(seed).save(directory / f"{seed}.png")
    shutil.copy(directory / "0.png", directory / "0-copy.png")
    as_jpeg(scene(0)).save(directory / "0-jpeg.jpg", quality=60)
    scene(0).resize((80, 80)).save(directory / "0-small.png")
    shutil.copy(directory / "1.png", directory / "1-copy.png")
    return directory


def groups_of(manifest: Manifest, groups: list[list[int]]) -> list[list[str]]:
    return [[manifest.images[place].path for place in group] for group in groups]


def found_among(*images: Image.Image, side: int = 64) -> list[list[int]]:
    pixels = np.stack([np.asarray(image.resize((side, side)).convert("RGB")).transpose(2, 0, 1) for image in images])
    return find_duplicates([pixels], [str(index) for index in range(len(images))]).near


def test_an_import_reports_copies_and_near_duplicates_and_drops_none(tmp_path: Path) -> None:
    manifest = prepare(folder_with_copies(tmp_path / "set"), tmp_path / "out")
    assert manifest.count == 14
    assert groups_of(manifest, manifest.duplicates.exact) == [["0-copy.png", "0.png"], ["1-copy.png", "1.png"]]
    assert groups_of(manifest, manifest.duplicates.near) == [["0-copy.png", "0-jpeg.jpg", "0-small.png", "0.png"]]
    assert Manifest.read(tmp_path / "out") == manifest


@pytest.mark.parametrize(
    ("policy", "dropped", "near"),
    [
        (
            DuplicatePolicy.DROP_EXACT,
            {"0.png": "the same file as 0-copy.png", "1.png": "the same file as 1-copy.png"},
            [["0-copy.png", "0-jpeg.jpg", "0-small.png"]],
        ),
        (
            DuplicatePolicy.DROP,
            {
                "0.png": "the same file as 0-copy.png",
                "1.png": "the same file as 1-copy.png",
                "0-jpeg.jpg": "looks the same as 0-copy.png",
                "0-small.png": "looks the same as 0-copy.png",
            },
            [],
        ),
    ],
)
def test_dropped_duplicates_are_named_and_the_others_keep_their_pixels(
    tmp_path: Path, policy: DuplicatePolicy, dropped: dict[str, str], near: list[list[str]]
) -> None:
    folder = folder_with_copies(tmp_path / "set")
    everything = prepare(folder, tmp_path / "all")
    manifest = prepare(folder, tmp_path / "out", duplicates=policy)
    assert {file.path: file.reason for file in manifest.refused} == dropped
    assert manifest.count == everything.count - len(dropped)
    assert groups_of(manifest, manifest.duplicates.near) == near
    assert manifest.duplicates.exact == []
    by_path = dict(zip((image.path for image in everything.images), pixels_in(tmp_path / "all"), strict=True))
    for image, pixels in zip(manifest.images, pixels_in(tmp_path / "out"), strict=True):
        assert (pixels == by_path[image.path]).all()


def pixels_in(target: Path) -> Pixels:
    return np.fromfile(target / "images.u8", np.uint8).reshape(Manifest.read(target).shape)


def test_recompressed_resized_and_brightened_pictures_look_the_same() -> None:
    original = scene(3)
    changed = [
        as_jpeg(original, 60),
        original.resize((72, 72)),
        original.resize((300, 300), Image.Resampling.BICUBIC),
        ImageEnhance.Brightness(original).enhance(1.03),
        original.quantize(128).convert("RGB"),
    ]
    assert found_among(original, scene(4), *changed, scene(5)) == [[0, 2, 3, 4, 5, 6]]


def test_pictures_of_one_kind_and_plain_ones_of_other_colours_are_no_duplicates() -> None:
    plain = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", "red", "green", "blue", "#404040")]
    original = scene(6)
    mirrored = original.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    moved = original.crop((12, 0, 96, 84))
    assert found_among(*(scene(seed) for seed in range(100, 160)), original, mirrored, moved, *plain) == []


def test_images_that_share_all_bits_but_seven_are_found_through_their_bands() -> None:
    """Given noise whose fields change a little, I expect pairs that a whole comparison of all with all finds, and no others."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (300, 1, 8, 8), np.uint8)
    twins = np.clip(base[:40].astype(int) + random.integers(-6, 7, (40, 1, 8, 8)), 0, 255).astype(np.uint8)
    pixels = np.concatenate([base, twins]).repeat(4, axis=2).repeat(4, axis=3)
    found = find_duplicates([pixels[:100], pixels[100:]], [str(index) for index in range(340)]).near
    assert all(len(group) == 2 and group[1] == group[0] + 300 for group in found)
    assert len(found) >= 30


def test_the_work_grows_with_the_number_of_images_even_if_all_share_their_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given pictures that all have one hash and are all different, I expect each compared with a bounded number of others."""
    count, pairs = 2000, 0
    pixels = np.zeros((count, 3, 16, 16), np.uint8)
    pixels[:] = np.random.default_rng(0).integers(0, 256, (count, 3, 1, 1))
    compare = duplicates._join_if_similar

    def counted(union: Any, left: Any, right: Any, *looks: Any) -> None:
        nonlocal pairs
        pairs += len(left)
        compare(union, left, right, *looks)

    monkeypatch.setattr(duplicates, "_join_if_similar", counted)
    find_duplicates([pixels], [str(index) for index in range(count)])
    assert count * 200 < pairs <= count * 255 * 8


def test_look_alikes_are_never_on_both_sides_of_a_comparison() -> None:
    """Given a hundred pictures in pairs that look the same, I expect each pair whole in one part of every split."""
    random = np.random.default_rng(0)
    hashes = [random.bytes(32).hex() for _ in range(200)]
    pairs = [[place, place + 100] for place in range(100)]
    manifest = Manifest(
        version=1,
        resolution=32,
        channels=1,
        count=200,
        classes=None,
        class_counts=None,
        background=(0, 0, 0),
        source_name="made up",
        images=[PreparedImage(f"{place}.png", value, None) for place, value in enumerate(hashes)],
        refused=[],
        duplicates=Duplicates(near=pairs),
    )
    parts = split(manifest)
    learnt, held_out = learnt_and_held_out(manifest, 0.2)
    for halves in ((parts.study, parts.control, parts.reference), (learnt, held_out)):
        sides = [set(part.tolist()) for part in halves]
        assert sum(map(len, sides)) == 200
        assert all(sides)
        for pair in pairs:
            assert sum(set(pair) <= side for side in sides) == 1


def test_the_default_limits_still_hold_for_a_set_of_copies(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for index in range(120):
        Image.new("L", (8, 8), 7).save(folder / f"{index:03}.png")
    manifest = prepare(folder, tmp_path / "out", resolution=8, duplicates=DuplicatePolicy.DROP_EXACT, limits=Limits())
    assert (manifest.count, len(manifest.refused)) == (1, 119)
