"""An import takes what it can, refuses the rest by name, leaves whole files or none, and is the same every time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from models.entries import Limits
from models.errors import (
    InvalidOption,
    LimitExceeded,
    NotAnArchive,
    NoUsableImages,
    OutOfSpace,
    PrepareError,
    SourceMissing,
    Stopped,
)
from models.manifest import Manifest
from models.prepare import prepare
from tests.pictures import Pixels, folder_of_shapes, png_that_promises, save, shapes

REAL_SETS = Path(__file__).resolve().parents[3] / "shared" / "data"


def plain(channels: int, value: int, width: int = 32, height: int = 32) -> Pixels:
    return np.full((channels, height, width), value, np.uint8)


def red(width: int = 32, height: int = 32) -> Pixels:
    picture = plain(3, 0, width, height)
    picture[0] = 255
    return picture


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def pixels_in(target: Path) -> Pixels:
    return np.fromfile(target / "images.u8", np.uint8).reshape(Manifest.read(target).shape)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


# What comes out


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_and_its_zip_become_the_same_array(tmp_path: Path, packed: bool) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=12, classes=3)
    source = zipped(folder, tmp_path / "set.zip") if packed else folder
    manifest = prepare(source, tmp_path / "out")
    pixels, labels = shapes(12, 32, 3, 3)
    by_class = np.argsort(labels, kind="stable")
    assert (pixels_in(tmp_path / "out") == pixels[by_class]).all()
    assert manifest.shape == (12, 3, 32, 32)
    assert manifest.classes == ["class-0", "class-1", "class-2"]
    assert manifest.class_counts == [4, 4, 4]
    assert [image.label for image in manifest.images] == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.source_name == source.name
    assert manifest.refused == []


def test_the_manifest_names_every_file_with_its_hash(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=4)
    manifest = prepare(folder, tmp_path / "out")
    assert [image.path for image in manifest.images] == [
        "class-0/0000.png",
        "class-0/0002.png",
        "class-1/0001.png",
        "class-1/0003.png",
    ]
    for image in manifest.images:
        assert image.sha256 == hashlib.sha256((folder / image.path).read_bytes()).hexdigest()
    assert Manifest.read(tmp_path / "out") == manifest


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=100, resolution=40)
    (folder / "notes.txt").write_text("no picture")
    for target in ("one", "two"):
        prepare(folder, tmp_path / target)
    for name in ("images.u8", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_only_the_two_files_are_left_and_others_may_read_them(tmp_path: Path) -> None:
    prepare(folder_of_shapes(tmp_path / "set"), tmp_path / "out")
    assert names_in(tmp_path / "out") == ["images.u8", "manifest.json"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


def test_a_second_import_replaces_the_first(tmp_path: Path) -> None:
    prepare(folder_of_shapes(tmp_path / "first", count=8), tmp_path / "out")
    prepare(folder_of_shapes(tmp_path / "second", count=4), tmp_path / "out", resolution=16)
    assert pixels_in(tmp_path / "out").shape == (4, 3, 16, 16)


def test_unlabelled_pictures_have_no_classes(tmp_path: Path) -> None:
    manifest = prepare(folder_of_shapes(tmp_path / "set", labelled=False), tmp_path / "out")
    assert (manifest.classes, manifest.class_counts) == (None, None)
    assert {image.label for image in manifest.images} == {None}


def test_a_picture_beside_the_class_folders_is_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set")
    save(plain(3, 9), folder / "cover.png")
    manifest = prepare(folder, tmp_path / "out")
    assert manifest.count == 16
    assert [(file.path, file.reason) for file in manifest.refused] == [
        ("cover.png", "outside the class folders: move it into one of them")
    ]


def test_a_class_whose_files_are_all_refused_is_no_class(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", classes=3)
    for path in (folder / "class-1").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    manifest = prepare(folder, tmp_path / "out")
    assert manifest.classes == ["class-0", "class-2"]
    assert manifest.class_counts == [6, 5]
    assert {image.label for image in manifest.images} == {0, 1}


def test_what_is_transparent_shows_the_background(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("LA", (32, 32), (0, 0)).save(tmp_path / "set/1.png")
    manifest = prepare(tmp_path / "set", tmp_path / "out", background=(10, 20, 30))
    assert manifest.background == (10, 20, 30)
    assert pixels_in(tmp_path / "out")[0, :, 0, 0].tolist() == [10, 20, 30]


# Resolution and channels


@pytest.mark.parametrize(
    ("short_sides", "resolution"),
    [([1], 32), ([32, 32], 32), ([33], 64), ([20, 30, 100], 32), ([28, 64, 64], 64), ([150, 400], 256), ([999], 256)],
)
def test_the_resolution_fits_the_median_short_side(tmp_path: Path, short_sides: list[int], resolution: int) -> None:
    for index, side in enumerate(short_sides):
        save(plain(1, 5, side, side + 7), tmp_path / "set" / f"{index}.png")
    assert prepare(tmp_path / "set", tmp_path / "out").resolution == resolution


def test_grey_pictures_need_one_channel_also_when_stored_as_rgb(tmp_path: Path) -> None:
    save(plain(1, 50), tmp_path / "set/1.png")
    save(plain(3, 60), tmp_path / "set/2.jpg")
    assert prepare(tmp_path / "set", tmp_path / "out").channels == 1
    assert pixels_in(tmp_path / "out")[:, 0, 0, 0].tolist() == [50, 60]


def test_one_colour_picture_after_many_grey_ones_makes_all_of_them_rgb(tmp_path: Path) -> None:
    for index in range(300):  # more than one block of the rewriting
        save(plain(1, index % 256, 8, 8), tmp_path / "set" / f"{index:03}.png")
    save(red(8, 8), tmp_path / "set/last.png")
    prepare(tmp_path / "set", tmp_path / "out", resolution=8)
    pixels = pixels_in(tmp_path / "out")
    assert pixels.shape == (301, 3, 8, 8)
    assert (pixels[:300] == (np.arange(300) % 256)[:, None, None, None]).all()
    assert (pixels[300] == red(8, 8)).all()
    assert names_in(tmp_path / "out") == ["images.u8", "manifest.json"]


@pytest.mark.parametrize("channels", [1, 3])
def test_asked_for_channels_are_given_to_grey_and_colour_alike(tmp_path: Path, channels: int) -> None:
    save(plain(1, 50), tmp_path / "set/1.png")
    save(red(), tmp_path / "set/2.png")
    assert prepare(tmp_path / "set", tmp_path / "out", channels=channels).channels == channels
    expected = {1: [[50], [76]], 3: [[50, 50, 50], [255, 0, 0]]}[channels]
    assert pixels_in(tmp_path / "out")[:, :, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"resolution": 3}, "resolution"),
        ({"resolution": 257}, "resolution"),
        ({"channels": 2}, "channels"),
        ({"background": (0, 0, 256)}, "background"),
        ({"background": (0, 0)}, "background"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(tmp_path: Path, options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidOption) as error:
        prepare(tmp_path, tmp_path / "out", **options)
    assert error.value.parameter == parameter
    assert error.value.bounds is not None


# What is refused


def test_bad_files_are_refused_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=4, labelled=False)
    (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes()[:-60])
    (folder / "notes.txt").write_text("Dear all,")
    (folder / "empty.jpg").touch()
    save(plain(1, 0, 400, 300), folder / "wide.png")
    manifest = prepare(folder, tmp_path / "out", limits=Limits(max_pixels=100_000))
    assert [image.path for image in manifest.images] == ["0000.png", "0002.png", "0003.png"]
    assert len(pixels_in(tmp_path / "out")) == 3
    reasons = {file.path: file.reason for file in manifest.refused}
    assert list(reasons) == ["0001.png", "empty.jpg", "notes.txt", "wide.png"]
    assert reasons["0001.png"].startswith("truncated")
    assert reasons["empty.jpg"].startswith("empty")
    assert reasons["notes.txt"].startswith("not an image")
    assert reasons["wide.png"] == "too many pixels: 0.1 million, at most 0.1 million; save it smaller"


def test_a_hostile_archive_harms_nothing_and_its_good_pictures_come_in(tmp_path: Path) -> None:
    good = save(plain(1, 9), tmp_path / "good.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../escaped.png", good)
        file.writestr("/absolute.png", good)
        file.writestr("bomb.png", b"\x89PNG\r\n\x1a\n" + bytes(20_000_000))
        file.writestr("ballast", np.random.default_rng(0).bytes(200_000))
    before = sorted(tmp_path.parent.rglob("*escaped*"))
    manifest = prepare(tmp_path / "set.zip", tmp_path / "a/b/out")
    assert [image.path for image in manifest.images] == ["absolute.png", "escaped.png"]
    assert [file.path for file in manifest.refused] == ["ballast", "bomb.png"]
    assert "zip bomb" in manifest.refused[1].reason
    assert sorted(tmp_path.parent.rglob("*escaped*")) == before
    assert names_in(tmp_path) == ["a", "good.png", "set.zip"]


def test_a_picture_as_large_as_a_bomb_is_refused_without_a_warning(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=2, labelled=False)
    (folder / "large.png").write_bytes(png_that_promises(10_000, 9_000))  # enough for Pillow to warn
    (folder / "larger.png").write_bytes(png_that_promises(20_000, 20_000))  # enough for Pillow to raise
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = prepare(folder, tmp_path / "out")
    assert [file.path for file in manifest.refused] == ["large.png", "larger.png"]
    assert manifest.refused[0].reason == "too many pixels: 90.0 million, at most 50 million; save it smaller"


def test_a_size_that_stands_late_in_the_file_is_found(tmp_path: Path) -> None:
    # A TIFF may have its directory behind its pixels.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    (tmp_path / "set").mkdir()
    noise.save(tmp_path / "set/late.tif", compression="tiff_lzw")
    assert (tmp_path / "set/late.tif").stat().st_size > 64 * 1024
    exif = Image.Exif()
    noise.save(tmp_path / "set/thumbnail.jpg", exif=exif, comment=b"x" * 65_000, quality=20)
    manifest = prepare(tmp_path / "set", tmp_path / "out", resolution=32)
    assert (manifest.count, manifest.refused) == (2, [])


@pytest.mark.parametrize("fill", [[], ["notes.txt", "more.txt"]])
def test_a_source_without_a_single_image_says_what_was_found(tmp_path: Path, fill: list[str]) -> None:
    (tmp_path / "set").mkdir()
    for name in fill:
        (tmp_path / "set" / name).write_text("words")
    with pytest.raises(NoUsableImages, match="none of the 2 files .* 2 of them: not an image" if fill else "no files"):
        prepare(tmp_path / "set", tmp_path / "out")
    assert names_in(tmp_path / "out") == []


def test_images_that_all_fail_in_decoding_leave_nothing_behind(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=3, labelled=False)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(NoUsableImages, match="3 of them: truncated"):
        prepare(folder, tmp_path / "out")
    assert names_in(tmp_path / "out") == []


def test_a_source_that_is_not_there_or_no_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="neither a folder nor a file"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(NotAnArchive, match=r"one\.png is not a zip archive"):
        prepare(save(plain(1, 0), tmp_path / "one.png"), tmp_path / "out")


def test_limits_of_the_whole_end_the_import_and_leave_what_was_prepared_before(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=8)
    before = prepare(folder, tmp_path / "out")
    for limits in (Limits(max_total_bytes=500), Limits(max_entries=7)):
        with pytest.raises(LimitExceeded):
            prepare(folder, tmp_path / "out", resolution=16, limits=limits)
    assert Manifest.read(tmp_path / "out") == before
    assert names_in(tmp_path / "out") == ["images.u8", "manifest.json"]


def test_an_old_manifest_never_stands_beside_new_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder_of_shapes(tmp_path / "set", count=8), tmp_path / "out")
    monkeypatch.setattr(Manifest, "write", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        prepare(folder_of_shapes(tmp_path / "other", count=8, labelled=False), tmp_path / "out")
    assert "manifest.json" not in names_in(tmp_path / "out")


# Progress, stopping, disks


def test_progress_rises_to_the_number_of_files(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=80)
    (folder / "notes.txt").write_text("no picture")
    told: list[tuple[int, int]] = []
    prepare(folder, tmp_path / "out", on_progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {81}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0][0] == 0
    assert told[-1] == (81, 81)


@pytest.mark.parametrize("asked_before", [0, 4, 40])
def test_a_stopped_import_leaves_nothing_behind(tmp_path: Path, asked_before: int) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=80)
    asked = iter(range(1000))
    threads = threading.active_count()
    with pytest.raises(Stopped, match="of 80 files"):
        prepare(folder, tmp_path / "out", should_stop=lambda: next(asked) >= asked_before)
    assert names_in(tmp_path / "out") == []
    assert threading.active_count() == threads


def test_an_error_of_the_callers_own_passes_through(tmp_path: Path) -> None:
    def lose_connection(done: int, total: int) -> None:
        raise ConnectionResetError("the caller's own")

    with pytest.raises(ConnectionResetError):
        prepare(folder_of_shapes(tmp_path / "set"), tmp_path / "out", on_progress=lose_connection)
    assert names_in(tmp_path / "out") == []


def failing(number: int) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [(errno.ENOSPC, OutOfSpace, "is full; free some space"), (errno.EIO, PrepareError, "cannot write to")],
)
def test_a_disk_that_fails_is_a_clear_error_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception], words: str
) -> None:
    folder = folder_of_shapes(tmp_path / "set")
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(expected, match=words):
        prepare(folder, tmp_path / "out")
    assert names_in(tmp_path / "out") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("channels", [None, 3])
def test_a_disk_that_fills_up_while_pixels_are_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int | None
) -> None:
    def new_file_on_a_full_disk(final: Path) -> tuple[Path, BinaryIO]:
        return final.with_name("absent"), os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b")

    monkeypatch.setattr("models.pixel_file.new_file_for", new_file_on_a_full_disk)
    with pytest.raises(OutOfSpace):
        prepare(folder_of_shapes(tmp_path / "set", count=8), tmp_path / "out", channels=channels)


def test_preparing_needs_no_pytorch() -> None:
    program = "import sys, models.prepare, models.png; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Real sets


@pytest.mark.skipif(not REAL_SETS.is_dir(), reason="the real image sets are not here")
def test_real_pixel_art_of_five_modes_comes_in_whole(tmp_path: Path) -> None:
    manifest = prepare(REAL_SETS / "tiles-32.zip", tmp_path / "out", background=(255, 0, 255))
    assert manifest.shape == (2776, 3, 32, 32)
    assert manifest.classes == ["dungeon", "effect", "item", "monster", "spell_icon"]
    assert manifest.class_counts == [1091, 176, 624, 678, 207]
    assert manifest.refused == []
    # Of every mode, the last picture: what is opaque has its own colour, what is transparent the background.
    pixels = pixels_in(tmp_path / "out")
    last_of_mode: dict[str, int] = {}
    with zipfile.ZipFile(REAL_SETS / "tiles-32.zip") as archive:
        for index, image in enumerate(manifest.images):
            with Image.open(archive.open(image.path)) as tile:
                last_of_mode[tile.mode] = index
        assert sorted(last_of_mode) == ["L", "LA", "P", "RGB", "RGBA"]
        for index in last_of_mode.values():
            with Image.open(archive.open(manifest.images[index].path)) as tile:
                expected = np.asarray(tile.convert("RGBA"))  # [H, W, 4]
            ours = pixels[index].transpose(1, 2, 0)
            opaque, clear = expected[..., 3] == 255, expected[..., 3] == 0
            assert (ours[opaque] == expected[..., :3][opaque]).all()
            assert (ours[clear] == (255, 0, 255)).all()


@pytest.mark.skipif(not REAL_SETS.is_dir(), reason="the real image sets are not here")
def test_a_real_grey_set_is_scaled_up_to_the_next_resolution(tmp_path: Path) -> None:
    manifest = prepare(REAL_SETS / "fashion-mnist-test.zip", tmp_path / "out")
    assert manifest.shape == (2000, 1, 32, 32)
    assert manifest.class_counts == [200] * 10
    assert json.loads((tmp_path / "out/manifest.json").read_text())["refused"] == []


@pytest.mark.skipif(not REAL_SETS.is_dir(), reason="the real image sets are not here")
def test_a_real_flat_set_of_photographs_has_no_classes(tmp_path: Path) -> None:
    manifest = prepare(REAL_SETS / "fewshot-hands-100.zip", tmp_path / "out")
    assert (manifest.shape, manifest.classes) == ((207, 3, 128, 128), None)
