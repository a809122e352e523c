"""Random bytes, damaged files and made-up structures: only our own errors come out of what reads files of others.

Each test makes some tens of files by default and hundreds under the marker `slow`. Decoders run here as they do in imports.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models import checkpoint
from models.archive import Archive
from models.decoders import Decoders
from models.entries import MIB, Limits, Source
from models.errors import ModelsError, Refused
from models.gan.netg import import_netg
from models.generator import CARD, WEIGHTS, Generator
from models.sealed import Seal, read_tensors
from models.tarball import Tarball

LIMITS = Limits(max_decode_s=5, max_total_bytes=64 * MIB, max_entries=1000, max_lost_decoders=10**6)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
Fuzzed = Callable[..., None]


def fuzz(strategy: st.SearchStrategy[Any], examples: int = 40) -> Callable[[Fuzzed], Fuzzed]:
    """Runs a test on that many inputs, and on ten times as many where `slow` tests run."""

    def decorated(test: Fuzzed) -> Fuzzed:
        def run(many: bool, **fixtures: Any) -> None:
            count = examples * (10 if many else 1)
            wrapped = given(value=strategy)(lambda value: test(value=value, **fixtures))
            settings(max_examples=count, deadline=None, suppress_health_check=QUIET, database=None)(wrapped)()

        many = pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])

        @many
        def with_directory(many: bool, tmp_path: Path) -> None:
            run(many, tmp_path=tmp_path)

        with_directory.__doc__ = test.__doc__
        return with_directory

    return decorated


def damaged(*whole: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with some bytes replaced, cut out, repeated or cut off; or only its beginning and noise; or noise alone."""

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(whole)))
        for _ in range(draw(st.integers(0, 6))):
            place = draw(st.integers(0, max(0, len(data) - 1)))
            length = draw(st.integers(0, 8))
            match draw(st.sampled_from(["replace", "cut", "repeat", "extreme"])):
                case "replace":
                    data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
                case "cut":
                    del data[place : place + length * 8]
                case "repeat":
                    data[place:place] = data[place : place + length * 16]
                case "extreme":
                    data[place : place + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * length
        return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 0 else data)

    return one() | st.binary(max_size=600)


def picture(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 24)).convert("RGB").save(file, form, **options)
    return file.getvalue()


def zipped(compression: int, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/1.png", b"data" * 50)
        archive.writestr("é/2.png", bytes(range(256)))
        archive.comment = comment
    return file.getvalue()


def streamed_zip() -> bytes:
    """As written to a pipe: sizes stand in data descriptors behind the data."""

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            Pipe.written += bytes(data)
            return len(data)

    with (
        zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as archive,  # not seekable, which is the point
        archive.open("1.png", "w", force_zip64=True) as member,
    ):
        member.write(b"data" * 99)
    return Pipe.written


def tarred(form: int, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:  # type: ignore[call-overload] # the mode is a variable
        for name in ("a/1.png", "é" * 40 + ".png"):
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
    return file.getvalue()


PICTURES = [
    *(picture(form) for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")),
    picture("JPEG", progressive=True),
    picture("TIFF", compression="tiff_lzw"),
    picture("TIFF", compression="tiff_deflate"),
]
ZIPS = [*(zipped(method) for method in (0, 8, 12, 14)), zipped(8, b"a comment, PK\5\6"), streamed_zip()]
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
TARS = [*(tarred(form) for form in FORMS), *(tarred(tarfile.PAX_FORMAT, f"w:{kind}") for kind in ("gz", "bz2", "xz"))]


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(LIMITS) as running:
        yield running


def _read_all(files: Source) -> None:
    meter = files.meter()
    for entry in files.entries:
        if entry.refusal is None:
            with suppress(Refused):
                assert len(files.read(entry, meter)) <= LIMITS.max_file_bytes


@fuzz(damaged(*ZIPS))
def test_zip_archives(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(value)
    with suppress(ModelsError), Archive(path, LIMITS) as files:
        _read_all(files)


@fuzz(damaged(*TARS))
def test_tar_archives(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(value)
    with suppress(ModelsError), Tarball(path, LIMITS, tmp_path, lambda: None) as files:
        _read_all(files)


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
def test_pictures(many: bool, decoders: Decoders) -> None:
    @settings(max_examples=600 if many else 60, deadline=None, suppress_health_check=QUIET, database=None)
    @given(st.lists(damaged(*PICTURES), min_size=1, max_size=8))
    def run(files: list[bytes]) -> None:
        decoders.headers(files)
        for outcome in decoders.decode(files, 16, None, (255, 255, 255)):
            assert isinstance(outcome, Refused) or outcome.shape in ((1, 16, 16), (3, 16, 16))

    run()


# What models are read from

TENSORS = {"a": torch.zeros(3, 2), "b.weight": torch.ones(4), "c": torch.zeros((), dtype=torch.int64)}


def safetensors_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


SHAPES = st.lists(st.integers(-2, 2**63), max_size=4)
OFFSETS = st.lists(st.integers(-1, 200) | st.integers(0, 2**64), min_size=0, max_size=3)
TYPES = st.sampled_from(["F32", "F64", "BF16", "I64", "BOOL", "F8_E4M3", "X9", ""])
HEADERS = st.dictionaries(
    st.text(max_size=8) | st.just("__metadata__"),
    st.fixed_dictionaries({"dtype": TYPES, "shape": SHAPES, "data_offsets": OFFSETS}) | st.none() | st.text(max_size=3),
    max_size=4,
)
STRUCTURES = st.builds(safetensors_of, HEADERS, st.binary(max_size=128)) | st.sampled_from(
    [
        struct.pack("<Q", 2**63) + b"{}",  # a header of exabytes
        struct.pack("<Q", 100_000_001) + b"{}",
        safetensors_of(b"[" * 200_000),  # nested without end
        safetensors_of(b'{"a":' * 50_000),
        safetensors_of(
            {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)
        ),  # overlap
        safetensors_of({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
        safetensors_of({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
        safetensors_of({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    ]
)


def sealed(data: bytes) -> Seal:
    """The seal of whoever made the file up: it fits."""
    return Seal(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@fuzz(STRUCTURES | damaged(safetensors.torch.save(TENSORS)), examples=40)
def test_tensors(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(value)
    with suppress(ModelsError):
        for tensor in read_tensors(path, sealed(value)).values():
            assert tensor.nbytes <= len(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@fuzz(
    st.tuples(
        st.dictionaries(st.sampled_from(["kind", "options", "resolution", "channels", "classes", "weights"]), JSON),
        STRUCTURES,
    )
)
def test_generators(value: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    """A card that is right but for some members, and weights whose seal fits."""
    changes, weights = value
    card = {
        "format": 1,
        "kind": "gan-dcgan",
        "options": {},
        "resolution": 32,
        "channels": 1,
        "images_seen": 0,
        "weights": sealed(weights).model_dump(),
    }
    (tmp_path / CARD).write_text(json.dumps(card | changes))
    (tmp_path / WEIGHTS).write_bytes(weights)
    with suppress(ModelsError):
        Generator.load(tmp_path)


@fuzz(st.binary(max_size=300) | st.builds(lambda value: json.dumps(value).encode(), JSON) | st.just(b"[" * 100_000))
def test_records_of_checkpoints(value: bytes, tmp_path: Path) -> None:
    for name in (checkpoint.RECORD, checkpoint.SCORES, CARD):
        (tmp_path / name).write_bytes(value)
    checkpoint.read_scores(tmp_path)
    with suppress(ModelsError):
        checkpoint.load(tmp_path)
    with suppress(ModelsError):
        Generator.load(tmp_path)


def torch_file(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


STATE = {"main.0.weight": torch.zeros(4, 2, 4, 4), "main.1.num_batches_tracked": torch.tensor(3)}
FOREIGN = [
    torch_file(STATE),
    torch_file(STATE, legacy=True),
    pickle.dumps({"main.0.weight": [1, 2]}),
    pickle.dumps(print),
]


@fuzz(damaged(*FOREIGN))
def test_weights_of_other_programs(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "netG.pth"
    path.write_bytes(value)
    with warnings.catch_warnings(), suppress(ModelsError):
        warnings.simplefilter("ignore")  # PyTorch's, about what damaged files pretend to be
        import_netg(path, tmp_path / "out")
