"""Tar archives are walked and read in place; links, devices, lies and damage are named, and nothing is extracted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from models.entries import MIB, Limits
from models.errors import LimitExceeded, NotAnArchive, Stopped
from models.prepare import prepare
from models.tarball import Tarball, looks_like_tar
from tests.pictures import folder_of_shapes

FILES = {"b/2.png": b"second" * 200, "a/1.png": b"first"}


def no_poll() -> None:
    """Lets the work go on."""


def packed(path: Path, files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload] # the mode is a variable
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(path: Path, limits: Limits | None = None) -> Tarball:
    return Tarball(path, limits or Limits(), path.parent / "unpacked", no_poll)


def contents(path: Path) -> dict[str, bytes | str]:
    """Each member's bytes, or why it is refused."""
    with opened(path) as files:
        meter = files.meter()
        return {entry.path: entry.refusal or files.read(entry, meter) for entry in files.entries}


def raw(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, says_bytes: int | None = None) -> bytes:
    """One member as its bytes, whose header may say another size."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(data) if says_bytes is None else says_bytes
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_are_listed_by_path_and_read_whole_or_in_part(tmp_path: Path, form: int, mode: str) -> None:
    path = packed(tmp_path / "a.tar", FILES, form, mode)
    assert looks_like_tar(path)
    with opened(path) as files:
        assert files.name == "a.tar"
        assert [entry.path for entry in files.entries] == ["a/1.png", "b/2.png"]
        assert [files.read(entry, files.meter()) for entry in files.entries] == [b"first", b"second" * 200]
        assert files.read(files.entries[1], files.meter(), at_most_bytes=3) == b"sec"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_and_script_stay_whole(tmp_path: Path, form: int) -> None:
    names = ["长" * 175 + ".png", "/".join(["folder"] * 40) + "/x.png", "crème/1.png"]
    assert sorted(contents(packed(tmp_path / "a.tar", dict.fromkeys(names, b"data"), form))) == sorted(names)


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_names_without_a_stated_encoding_are_read_in_the_one_that_fits(tmp_path: Path, encoding: str) -> None:
    names = ["猫/照片一.png", "狗/照片二.png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding=encoding) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    assert sorted(contents(tmp_path / "a.tar")) == sorted(names)


def test_names_that_lead_elsewhere_lose_what_makes_them_dangerous(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {"../../etc/passwd.png": b"", "/root/1.png": b"", "a/../../b.png": b""})
    assert list(contents(path)) == ["a/b.png", "etc/passwd.png", "root/1.png"]


def test_what_systems_leave_behind_is_counted_and_not_listed(tmp_path: Path) -> None:
    with opened(
        packed(tmp_path / "a.tar", dict.fromkeys(["._1.png", "__MACOSX/1", ".DS_Store", "1.png"], b""))
    ) as files:
        assert [entry.path for entry in files.entries] == ["1.png"]
        assert files.skipped == 3


def test_links_devices_pipes_and_holes_are_refused_by_name(tmp_path: Path) -> None:
    kinds = {
        "symbolic": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "disk": tarfile.BLKTYPE,
        "terminal": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
    }
    # A hard link's header may repeat the size of the file that it leads to, without any data.
    members = [raw(name, kind=kind, says_bytes=4096 if name == "hard" else 0) for name, kind in kinds.items()]
    (tmp_path / "a.tar").write_bytes(b"".join([*members, raw("last.png", b"data"), bytes(1024)]))
    found = contents(tmp_path / "a.tar")
    link = "a link inside the archive: pack the file itself"
    assert found == {
        "symbolic": link,
        "hard": link,
        "disk": "not a regular file",
        "terminal": "not a regular file",
        "pipe": "not a regular file",
        "sparse": "a file with holes: pack it without --sparse",
        "last.png": b"data",
    }


def test_a_member_larger_than_allowed_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {"1.png": bytes(5000), "2.png": b"data"})
    with opened(path, Limits(max_file_bytes=4096)) as files:
        large, small = files.entries
        assert large.refusal == "too large: 4.883 KiB, at most 4 KiB"
        assert files.read(small, files.meter()) == b"data"


# Lies and damage


@pytest.mark.parametrize("says_bytes", [10_000, 2**40, 2**62, -1, -512])
def test_a_header_that_lies_about_its_size_is_named(tmp_path: Path, says_bytes: int) -> None:
    """Given a header of more bytes than there are, or of less than none, I expect what came before, and what is wrong."""
    (tmp_path / "a.tar").write_bytes(raw("1.png", b"data") + raw("2.png", b"data", says_bytes=says_bytes))
    found = contents(tmp_path / "a.tar")
    assert found.pop("1.png") == b"data"
    assert any("pack it again" in str(reason) for reason in found.values())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_of_many_bytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(raw("1.png", b"data") + raw("x", bytes(MIB), kind) + raw("2.png", b"data"))
    assert list(contents(path)) == ["(after 1.png)", "1.png"]


def test_a_chain_of_extended_headers_is_walked_without_recursion(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(raw("x", b"long.png\0", tarfile.GNUTYPE_LONGNAME) * 5000 + raw("1.png", b"data") + bytes(1024))
    assert contents(path) == {"long.png": b"data"}


@pytest.mark.parametrize(
    "records",
    [b"9999999 path=a\n", b"0 path=a\n", b"-5 path=a\n", b"12 size=\xb2\n", b"17 size=99999999\n", b"\xff" * 90],
)
def test_damaged_extended_headers_do_no_harm(tmp_path: Path, records: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(raw("x", records, tarfile.XHDTYPE) + raw("1.png", b"data") + bytes(1024))
    assert "1.png" in contents(tmp_path / "a.tar")


def test_an_archive_cut_short_names_the_place_and_gives_what_is_whole(tmp_path: Path) -> None:
    whole = packed(tmp_path / "a.tar", FILES, tarfile.USTAR_FORMAT).read_bytes()
    for length in range(512, 512 * 6, 64):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        found = contents(tmp_path / "cut.tar")
        if length < 512 + 1200:
            assert found["b/2.png"] == "truncated: the archive ends within this file; pack it again"
        else:
            assert found["b/2.png"] == FILES["b/2.png"]
        assert ("a/1.png" in found) == (length >= 5 * 512)
        assert any("the archive" in str(reason) for reason in found.values())


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_that_breaks_off_gives_what_could_be_unpacked(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    files = {f"{index}.png": random.Random(index).randbytes(400_000) for index in range(5)}
    data = compress(packed(tmp_path / "a.tar", files).read_bytes())
    (tmp_path / "cut").write_bytes(data[: len(data) * 9 // 10])
    found = contents(tmp_path / "cut")
    assert [path for path in files if found.get(path) == files[path]][:2] == ["0.png", "1.png"]
    assert any(str(reason).endswith("pack it again") for reason in found.values())


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b no gzip", b"BZh91AY&SY", b"\xfd7zXZ\0 no"])
def test_what_is_no_tar_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(NotAnArchive, match=r"a\.tar is not a tar archive"):
        opened(tmp_path / "a.tar")


# Limits


@pytest.mark.parametrize(
    ("limits", "limit"),
    [(Limits(max_ratio=50), "max_ratio"), (Limits(max_total_bytes=3 * MIB, max_ratio=1e9), "max_total_bytes")],
)
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_bomb_ends_the_import_while_it_is_unpacked_and_leaves_nothing(
    tmp_path: Path, limits: Limits, limit: str, mode: str
) -> None:
    path = packed(tmp_path / "bomb", {"bomb.png": bytes(12 * MIB)}, mode=mode)
    with pytest.raises(LimitExceeded) as error:
        opened(path, limits)
    assert error.value.limit == limit
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_too_many_members_end_the_import(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", {f"{index}.png": b"" for index in range(11)}, tarfile.USTAR_FORMAT)
    with opened(path, Limits(max_entries=11)) as files:
        assert len(files.entries) == 11
    with pytest.raises(LimitExceeded, match="more than 10 files"):
        opened(path, Limits(max_entries=10))


def test_xz_that_asks_for_a_dictionary_of_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    tar = packed(tmp_path / "a.tar", FILES).read_bytes()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(tar, filters=filters))
    flags = data.index(b"\x21\x01", 12)  # of the filter: its id, and the size of its properties
    data[flags + 2] = 40  # 4 GiB
    header_bytes = (data[12] + 1) * 4
    data[12 + header_bytes - 4 : 12 + header_bytes] = zlib.crc32(data[12 : 12 + header_bytes - 4]).to_bytes(4, "little")
    (tmp_path / "a.xz").write_bytes(data)
    with pytest.raises(NotAnArchive):
        opened(tmp_path / "a.xz")


def test_unpacking_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        Tarball(packed(tmp_path / "a", FILES, mode="w:gz"), Limits(), tmp_path, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_of_pictures_becomes_the_same_array_as_their_folder(tmp_path: Path, mode: str) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=12, classes=3)
    with tarfile.open(tmp_path / "set.tar", mode) as archive:  # type: ignore[call-overload] # the mode is a variable
        archive.add(folder, "set")
    by_folder = prepare(folder, tmp_path / "one")
    by_tar = prepare(tmp_path / "set.tar", tmp_path / "two")
    assert (by_tar.classes, by_tar.shape, by_tar.refused) == (by_folder.classes, by_folder.shape, [])
    assert (tmp_path / "one/images.u8").read_bytes() == (tmp_path / "two/images.u8").read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["images.u8", "manifest.json"]
