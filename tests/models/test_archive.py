"""Archives are read member by member; what is hostile about one is refused by name or ends the import, and writes nothing."""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.archive import Archive
from models.entries import Entry, Limits, Meter
from models.errors import LimitExceeded, NotAnArchive, Refused

UTF8_FLAG = 0x800


def packed(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def packed_with_raw_names(path: Path, names: list[bytes]) -> Path:
    """An archive as old programs make it: names in the system's encoding, not marked as UTF-8."""
    stand_ins = [chr(ord("a") + index) * len(name) for index, name in enumerate(names)]
    packed(path, dict.fromkeys(stand_ins, b"data"))
    data = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        data = data.replace(stand_in.encode(), name)
    path.write_bytes(data)
    return path


def with_flag(path: Path, flag: int) -> Path:
    """Sets a flag bit on every member, in both of its headers."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(signature)
        while place >= 0:
            (flags,) = struct.unpack_from("<H", data, place + offset)
            struct.pack_into("<H", data, place + offset, flags | flag)
            place = data.find(signature, place + 4)
    path.write_bytes(data)
    return path


def paths(path: Path) -> list[str]:
    with Archive(path, Limits()) as archive:
        return [entry.path for entry in archive.entries]


@contextmanager
def only_member(path: Path, limits: Limits | None = None) -> Iterator[tuple[Archive, Entry]]:
    with Archive(path, limits or Limits()) as archive:
        (entry,) = archive.entries
        yield archive, entry


def refusal_of_reading(path: Path, limits: Limits | None = None) -> str:
    with only_member(path, limits) as (archive, entry), pytest.raises(Refused) as refusal:
        archive.read(entry, archive.meter())
    return str(refusal.value)


def test_members_are_listed_by_path_and_read_whole_or_in_part(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"b/2.png": b"second", "a/1.png": b"first"})
    with Archive(archive, Limits()) as files:
        assert files.name == "a.zip"
        assert [entry.path for entry in files.entries] == ["a/1.png", "b/2.png"]
        assert [files.read(entry, files.meter()) for entry in files.entries] == [b"first", b"second"]
        assert files.read(files.entries[1], files.meter(), at_most_bytes=3) == b"sec"


def test_what_systems_leave_behind_is_not_listed(tmp_path: Path) -> None:
    names = ["__MACOSX/._1.png", ".DS_Store", "a/.hidden/1.png", "a/Thumbs.db", "a/desktop.ini", "a/", "a/1.png"]
    assert paths(packed(tmp_path / "a.zip", dict.fromkeys(names, b""))) == ["a/1.png"]


# Names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd.png", "etc/passwd.png"),
        ("/etc/passwd.png", "etc/passwd.png"),
        ("a/../../b.png", "a/b.png"),
        ("C:/Windows/1.png", "Windows/1.png"),
        ("a/\x1b[31mred\n.png", "a/\ufffd[31mred\ufffd.png"),
        ("..", "(no name)"),
    ],
)
def test_names_that_lead_elsewhere_lose_what_makes_them_dangerous(tmp_path: Path, name: str, shown: str) -> None:
    assert paths(packed(tmp_path / "a.zip", {name: b""})) == [shown]


def test_names_of_180_characters_stay_whole_and_endless_ones_are_cut(tmp_path: Path) -> None:
    long, endless = "长" * 175 + ".png", "x" * 60_000
    shown = paths(packed(tmp_path / "a.zip", {long: b"", endless: b""}))
    assert long in shown
    assert sorted(map(len, shown)) == [179, 1000]


def test_composed_and_decomposed_letters_are_one_spelling(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFC", "crème/1.png"), unicodedata.normalize("NFD", "crème/2.png")]
    assert paths(packed(tmp_path / "a.zip", dict.fromkeys(names, b""))) == ["crème/1.png", "crème/2.png"]


def test_backslashes_of_an_archive_made_on_windows_separate_folders(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        record = zipfile.ZipInfo("cats\\1.png")
        record.create_system = 0
        file.writestr(record, b"")
    assert paths(archive) == ["cats/1.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "cp437"])
def test_unmarked_names_are_read_in_the_encoding_that_fits_them(tmp_path: Path, encoding: str) -> None:
    names = (
        ["Überraschung/ähre.png", "Überraschung/façade.png"]
        if encoding == "cp437"
        else ["猫/照片一.png", "狗/照片二.png"]
    )
    archive = packed_with_raw_names(tmp_path / "a.zip", [name.encode(encoding) for name in names])
    assert paths(archive) == sorted(names)


def test_one_folder_never_gets_two_spellings(tmp_path: Path) -> None:
    # 0x81 0x20 is no character of GBK, so the second name alone would be read as code page 437.
    archive = packed_with_raw_names(
        tmp_path / "a.zip", ["猫狗/照片.png".encode("gbk"), "猫狗/".encode("gbk") + b"\x81 .png"]
    )
    assert len({path.split("/")[0] for path in paths(archive)}) == 1


def test_bytes_that_are_no_text_in_any_encoding_are_still_listed(tmp_path: Path) -> None:
    archive = packed_with_raw_names(tmp_path / "a.zip", [bytes([255, 254, 0x80, 0x81]) + b".png"])
    (path,) = paths(archive)
    assert path.endswith(".png")
    path.encode()


def test_a_name_falsely_marked_as_utf8_is_a_damaged_archive(tmp_path: Path) -> None:
    archive = with_flag(packed_with_raw_names(tmp_path / "a.zip", [b"\xff\xfe1.png"]), UTF8_FLAG)
    with pytest.raises(NotAnArchive, match=r"a\.zip is not a zip archive that can be read"):
        Archive(archive, Limits())


# Members that are refused


def test_encrypted_members_are_refused_by_name(tmp_path: Path) -> None:
    archive = with_flag(packed(tmp_path / "a.zip", {"secret.png": b"data"}), 0x1)
    with only_member(archive) as (_, entry):
        assert (entry.path, entry.refusal) == ("secret.png", "encrypted: pack the archive without a password")


def test_links_inside_an_archive_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        record = zipfile.ZipInfo("link.png")
        record.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(record, "/etc/passwd")
    with only_member(archive) as (_, entry):
        assert entry.refusal == "a link inside the archive: pack the file itself"


def test_methods_that_python_lacks_are_refused_by_name(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"1.png": b"data"})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<H", data, data.find(b"PK\1\2") + 10, 9)
    archive.write_bytes(data)
    with only_member(archive) as (_, entry):
        assert entry.refusal is not None
        assert "Deflate64" in entry.refusal


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_data_is_refused(tmp_path: Path, compression: int) -> None:
    archive = packed(tmp_path / "a.zip", {"1.png": bytes(range(256)) * 40}, compression)
    data = bytearray(archive.read_bytes())
    data[60] ^= 0xFF
    archive.write_bytes(data)
    assert refusal_of_reading(archive).startswith("cannot be unpacked")


def test_a_member_larger_than_allowed_is_refused_from_its_record(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"1.png": bytes(5000)})
    with only_member(archive, Limits(max_file_bytes=4096)) as (_, entry):
        assert entry.refusal == "too large: 4.883 KiB, at most 4 KiB"


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"1.png": bytes(50_000)})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<L", data, data.find(b"PK\1\2") + 24, 100)
    archive.write_bytes(data)
    with only_member(archive) as (files, entry):
        assert entry.refusal is None
        with pytest.raises(Refused):
            files.read(entry, files.meter())


def test_a_bomb_is_refused_by_its_ratio_before_it_is_whole(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"bomb.png": bytes(30_000_000)})
    # An archive has to hold more than the bomb, or it is one as a whole.
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(zipfile.ZipInfo("ballast"), bytes(range(256)) * 4000)
    with Archive(archive, Limits()) as files:
        bomb = next(entry for entry in files.entries if entry.path == "bomb.png")
        with pytest.raises(Refused, match="more than 200 times its size, as a zip bomb does"):
            files.read(bomb, files.meter())


# Archives that are refused


def test_an_archive_that_unpacks_to_too_much_in_all_ends_the_import(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {f"{index}.png": bytes(1000) for index in range(4)}, zipfile.ZIP_STORED)
    with Archive(archive, Limits(max_total_bytes=2500)) as files:
        meter = files.meter()
        first, second, third, _ = files.entries
        files.read(first, meter)
        files.read(second, meter)
        with pytest.raises(LimitExceeded, match=r"more than 2\.441 KiB together; import them in parts") as error:
            files.read(third, meter)
        assert error.value.limit == "max_total_bytes"


def test_many_members_sharing_the_same_bytes_end_the_import_by_ratio(tmp_path: Path) -> None:
    # Each member unpacks to less than the ratio allows; a thousand records point at the one piece of data.
    archive = packed(tmp_path / "a.zip", {"1.png": (bytes(150) + bytes(range(50))) * 4000})
    data = archive.read_bytes()
    start, end = data.find(b"PK\1\2"), data.find(b"PK\5\6")
    finish = bytearray(data[end:])
    struct.pack_into("<HHLL", finish, 8, 1000, 1000, (end - start) * 1000, start)
    archive.write_bytes(data[:start] + data[start:end] * 1000 + finish)
    with Archive(archive, Limits()) as files:
        assert len(files.entries) == 1000
        meter = files.meter()
        with pytest.raises(LimitExceeded, match="more than 200 times its size") as error:
            _read_all(files, meter)
        assert error.value.limit == "max_ratio"


@pytest.mark.parametrize("comment", [b"", b"made by hand, PK\5\6 and all"])
def test_too_many_members_are_found_before_their_records_are_kept(
    tmp_path: Path, comment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "a.zip", {f"{index}.png": b"" for index in range(11)})
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = comment.replace(b"PK\5\6", b"PK")
    data = bytearray(archive.read_bytes())
    struct.pack_into("<HH", data, data.rfind(b"PK\5\6") + 8, 1, 1)  # the count that it declares is a lie
    archive.write_bytes(data)
    Archive(archive, Limits(max_entries=11)).__exit__(None, None, None)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(LimitExceeded, match="more than 10 files") as error:
        Archive(archive, Limits(max_entries=10))
    assert error.value.limit == "max_entries"


def test_too_many_members_are_found_in_a_large_archives_directory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)  # from here on zipfile writes the records of large archives
    archive = packed(tmp_path / "a.zip", {f"{index}.png": b"" for index in range(11)})
    assert b"PK\6\6" in archive.read_bytes()
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(LimitExceeded):
        Archive(archive, Limits(max_entries=10))


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"PK\5\6", b"PK\5\6" + b"\xff" * 18, b"\x1f\x8b tar.gz"])
def test_what_is_no_zip_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "pictures.zip"
    file.write_bytes(data)
    with pytest.raises(NotAnArchive, match=r"pictures\.zip is not a zip archive that can be read"):
        Archive(file, Limits())


def test_an_archive_cut_short_at_any_byte_is_refused_cleanly(tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole.zip", {"1.png": b"data", "2.png": b"more"}).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(NotAnArchive):
            Archive(_written(tmp_path / "cut.zip", whole[:length]), Limits())


def test_an_archive_with_damage_at_any_byte_raises_only_our_errors(tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole.zip", {"1.png": b"data" * 9}).read_bytes()
    for place in range(len(whole)):
        for value in (0x00, 0xFF, whole[place] ^ 0x01):
            damaged = bytearray(whole)
            damaged[place] = value
            try:
                with Archive(_written(tmp_path / "bad.zip", bytes(damaged)), Limits()) as files:
                    _read_all(files, files.meter())
            except (NotAnArchive, Refused):
                continue


def _read_all(files: Archive, meter: Meter) -> None:
    for entry in files.entries:
        if entry.refusal is None:
            files.read(entry, meter)


def _written(path: Path, data: bytes) -> Path:
    with io.FileIO(path, "w") as file:
        file.write(data)
    return path
