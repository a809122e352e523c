"""Files made to do harm, through a whole import: each is refused by name or ends the import, and good pictures come in.

Decoders run with the limits of production but for time, so that the suite stays quick.
"""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from PIL import Image

from models.decode import FORMATS
from models.entries import MIB, Limits
from models.errors import LimitExceeded, NoUsableImages
from models.prepare import prepare
from tests.hostile import (
    chunk,
    gif_of_many_frames,
    overlapping_zip,
    png_bomb,
    png_of_much_text,
    png_with,
    tiff_that_promises,
    zip_in_zip,
)
from tests.pictures import jpeg_of_many_scans, png_that_promises

LIMITS = Limits(max_decode_s=2)


def good() -> bytes:
    file = io.BytesIO()
    Image.new("L", (32, 32), 200).save(file, "PNG")
    return file.getvalue()


def outcome(tmp_path: Path, files: Mapping[str, bytes], limits: Limits = LIMITS) -> dict[str, str]:
    """What became of each file of a zip that also holds a good picture, which must come in."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**files, "good.png": good()}.items():
            archive.writestr(name, data)
    manifest = prepare(tmp_path / "set.zip", tmp_path / "out", resolution=32, limits=limits)
    used = {image.path: "used" for image in manifest.images}
    assert used.pop("good.png") == "used"
    assert len(manifest.images) + len(manifest.refused) == len(files) + 1
    return used | {file.path: file.reason for file in manifest.refused}


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PNG of 2.5 GB of pixels": (lambda: png_that_promises(50_000, 50_000), "too many pixels"),
    "a TIFF of 2.5 GB of pixels": (lambda: tiff_that_promises(50_000, 50_000), "too many pixels"),
    "a TIFF of allowed pixels, and no data": (lambda: tiff_that_promises(7000, 7000), "truncated|damaged"),
    "a GIF of many frames": (gif_of_many_frames, "used"),
    "a JPEG of many scans": (jpeg_of_many_scans, "longer than 2 s of processor time"),
    "a text chunk of 64 MiB": (lambda: png_of_much_text(unpacked_bytes=2**26), "damaged"),
    "an iTXt chunk of 64 MiB": (lambda: png_of_much_text(b"iTXt", 2**26), "damaged"),
    "a colour profile of 64 MiB": (
        lambda: png_of_much_text(unpacked_bytes=2**26).replace(b"zTXtComment", b"iCCPComment"),
        "used|damaged",
    ),
    "chunks without end": (lambda: png_with(*[chunk(b"teSt", b"")] * 30_000), "used"),
    "bytes behind the picture": (lambda: good() + b"<script>alert(1)</script>" * 1000, "used"),
    "SVG": (lambda: b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]><svg>&a;</svg>", "SVG"),
    "SVG behind a comment": (lambda: b"<!-- a -->\n<svg onload='alert(1)'/>", "not an image"),
    "HTML": (lambda: b"<!DOCTYPE html><img src=http://169.254.169.254/>", "not an image"),
    "PDF": (lambda: b"%PDF-1.7\n1 0 obj", "PDF"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", "not an image"),
    "XPM": (lambda: b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #fff", "a"};', "not an image"),
    "a program": (lambda: b"\x7fELF" + bytes(2000), "not an image"),
    "a zip of zips": (zip_in_zip, "archive: unpack it"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused_or_used_and_the_others_come_in(tmp_path: Path, name: str) -> None:
    make, wanted = PICTURES[name]
    found = outcome(tmp_path, {"hostile.png": make()})
    assert any(word in found["hostile.png"] for word in wanted.split("|")), found


@pytest.mark.slow
def test_a_text_chunk_of_two_gigabytes_is_never_unpacked(tmp_path: Path) -> None:
    began_s = time.process_time()
    assert outcome(tmp_path, {"hostile.png": png_of_much_text()})["hostile.png"].startswith("damaged")
    assert psutil.Process().memory_info().rss < 2 * 1024 * MIB
    assert time.process_time() - began_s < 120


def test_a_bomb_of_allowed_pixels_is_decoded_one_at_a_time_within_the_decoder_s_memory(tmp_path: Path) -> None:
    """Given three PNGs of 27 million pixels in 26 kB each, I expect all to be used."""
    bombs = {f"{index}.png": png_bomb(5200) for index in range(3)}
    assert all(len(data) < 60_000 for data in bombs.values())
    assert set(outcome(tmp_path, bombs, Limits(max_decode_s=20)).values()) == {"used"}


@pytest.mark.parametrize("form", ["EPS", "PSD", "FITS", "ICO", "PCX", "TGA", "SGI", "DDS", "XBM", "PDF"])
def test_formats_that_are_not_on_the_list_are_not_opened_whatever_they_are_called(tmp_path: Path, form: str) -> None:
    assert form not in FORMATS
    file = io.BytesIO()
    if form not in ("FITS", "PSD"):  # which Pillow cannot write
        Image.new("1" if form == "XBM" else "RGB", (16, 16)).save(file, form)
    data = file.getvalue() or {"FITS": b"SIMPLE  =                    T", "PSD": b"8BPS\0\1" + bytes(100)}[form]
    found = outcome(tmp_path, {"holiday.jpg": data})["holiday.jpg"]
    assert found.startswith(("not an image", "a Photoshop file")), found


# Archives


def test_members_that_overlap_end_the_import_by_what_they_unpack_to(tmp_path: Path) -> None:
    path = overlapping_zip(tmp_path / "set.zip")
    assert path.stat().st_size < 20_000
    # Newer Pythons see that members overlap, and each is refused by name.
    with pytest.raises((LimitExceeded, NoUsableImages), match=r"as a zip bomb does|cannot be unpacked"):
        prepare(path, tmp_path / "out", limits=Limits(max_ratio=2500))


@pytest.mark.parametrize(
    "count", [pytest.param(60_000, id="60,000"), pytest.param(1_000_000, marks=pytest.mark.slow, id="a million")]
)
def test_a_million_entries_are_counted_before_they_are_kept(tmp_path: Path, count: int) -> None:
    path = overlapping_zip(tmp_path / "set.zip", members=count, unpacked_bytes=10)
    before = psutil.Process().memory_info().rss
    with pytest.raises(LimitExceeded) as error:
        prepare(path, tmp_path / "out", limits=Limits(max_entries=min(500_000, count // 2)))
    assert error.value.limit == "max_entries"
    assert psutil.Process().memory_info().rss - before < 200 * MIB


def test_names_that_differ_by_case_or_form_alone_are_all_used_and_none_escapes(tmp_path: Path) -> None:
    names = ["A.png", "a.png", "é.png", "e\u0301.png", "../../a.png", "/a.png", "x" * 176 + ".png"]
    found = outcome(tmp_path, dict.fromkeys(names, good()))
    assert set(found.values()) == {"used"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set.zip"]


def test_a_tar_of_everything_hostile_gives_its_good_picture(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        for name, kind, link in (
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "../../etc/shadow"),
            ("null.png", tarfile.CHRTYPE, ""),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
        for name, data in (("../../up.png", good()), ("poison.jpg", jpeg_of_many_scans()), ("empty.png", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    manifest = prepare(tmp_path / "set.tar.gz", tmp_path / "out", limits=Limits(max_decode_s=0.5))
    assert [image.path for image in manifest.images] == ["up.png"]
    assert [file.path for file in manifest.refused] == [
        "empty.png",
        "hard.png",
        "link.png",
        "null.png",
        "pipe.png",
        "poison.jpg",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set.tar.gz"]
