"""A picture that takes too long, too much memory, or its process along is refused; what comes after it is decoded."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from models.decode import Header, Pixels
from models.decoders import Decoders
from models.entries import MIB, Limits
from models.errors import LimitExceeded, Refused
from models.prepare import prepare
from tests.pictures import folder_of_shapes, jpeg_of_many_scans, png_that_promises

WHITE = (255, 255, 255)


def png(value: int, mode: str = "L", side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), value).save(file, "PNG")
    return file.getvalue()


def decoded(decoders: Decoders, *files: bytes) -> list[Pixels | Refused]:
    return decoders.decode(files, 8, None, WHITE)


def said(outcome: Pixels | Refused) -> str:
    return str(outcome) if isinstance(outcome, Refused) else f"pixels of {outcome.mean():g}"


def children() -> list[psutil.Process]:
    """The decoders that run now; other tests may have started services."""
    return [child for child in psutil.Process().children() if "models.decoding_process" in " ".join(child.cmdline())]


def eventually(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_headers_and_pixels_come_in_the_order_of_the_files() -> None:
    with Decoders(Limits(max_pixels=10_000)) as decoders:
        first, second, third = decoders.headers([png(1), b"words", png_that_promises(300, 200)])
        assert first == Header(8, 8)
        assert str(second).startswith("not an image")
        assert str(third).startswith("too many pixels")
        outcomes = decoded(decoders, png(7), b"", png(9))
        assert [said(outcome)[:13] for outcome in outcomes] == ["pixels of 7", "empty: the fi", "pixels of 9"]
        assert isinstance(outcomes[0], np.ndarray)
        assert outcomes[0].shape == (1, 8, 8)
        assert outcomes[0].dtype == np.uint8


def test_a_picture_that_takes_too_long_is_refused_and_the_next_ones_are_decoded() -> None:
    """Given a picture with a minute of work between others, when half a second is allowed, I expect it alone to be refused."""
    with Decoders(Limits(max_decode_s=0.5)) as decoders:
        began_s = time.process_time()
        outcomes = decoded(decoders, png(7), jpeg_of_many_scans(), png(9))
        assert said(outcomes[1]).startswith("decoding takes longer than 0.5 s of processor time")
        assert [said(outcomes[0]), said(outcomes[2])] == ["pixels of 7", "pixels of 9"]
        assert time.process_time() - began_s < 5  # of this process, which only waits


def test_a_picture_that_needs_more_memory_than_a_decoder_has_is_refused() -> None:
    with Decoders(Limits(max_memory_bytes=400 * MIB)) as decoders:
        outcomes = decoded(decoders, png(0, "RGB", 7000), png(9))
        assert said(outcomes[0]) == "not enough memory to decode it: save it smaller"
        assert said(outcomes[1]) == "pixels of 9"


def test_a_process_that_dies_takes_one_file_along() -> None:
    """Given a decoder killed in the midst of a slow picture, as by a crash, I expect that one refused and the next decoded."""
    with Decoders(Limits()) as decoders:
        decoders.headers([png(1)])
        (victim,) = children()

        def kill() -> None:
            eventually(lambda: victim.cpu_times().user > before + 0.2)
            os.kill(victim.pid, signal.SIGSEGV)

        before = victim.cpu_times().user
        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = decoded(decoders, jpeg_of_many_scans(), png(9))
        killer.join()
        assert said(outcomes[0]) == "it crashed its decoder (SIGSEGV): save it as PNG or JPEG"
        assert said(outcomes[1]) == "pixels of 9"


def test_too_many_lost_processes_end_the_import() -> None:
    with (
        Decoders(Limits(max_decode_s=0.05, max_lost_decoders=2)) as decoders,
        pytest.raises(LimitExceeded, match="more than 2 files took too long") as error,
    ):
        decoded(decoders, *[jpeg_of_many_scans()] * 3)
    assert error.value.limit == "max_lost_decoders"


def test_processes_are_kept_for_the_next_file_and_end_with_the_import_even_if_busy() -> None:
    with Decoders(Limits()) as decoders:
        for _ in range(3):
            decoders.headers([png(1)])
        (process,) = children()
        outcomes: list[Pixels | Refused] = []
        waiting = threading.Thread(target=lambda: outcomes.extend(decoded(decoders, jpeg_of_many_scans())))
        began = process.cpu_times().user
        waiting.start()
        eventually(lambda: process.cpu_times().user > began + 0.1)
    waiting.join(10)
    assert isinstance(outcomes[0], Refused)
    assert children() == []


def test_a_decoder_has_nothing_of_its_parent_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given a secret in the environment and an open file, I expect a decoder to hold neither, nor to be able to write."""
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "postgresql://secret")
    with (tmp_path / "open").open("wb") as file, Decoders(Limits()) as decoders:
        os.set_inheritable(file.fileno(), True)
        decoders.headers([png(1)])
        (process,) = children()
        assert "DARKROOM_DATABASE_URL" not in process.environ()
        assert process.open_files() == []
        if hasattr(process, "rlimit"):
            assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
            assert process.rlimit(psutil.RLIMIT_AS) == (2048 * MIB, 2048 * MIB)


def test_one_poison_picture_does_not_stop_an_import(tmp_path: Path) -> None:
    folder = folder_of_shapes(tmp_path / "set", count=40, labelled=False)
    (folder / "0007-poison.jpg").write_bytes(jpeg_of_many_scans())
    manifest = prepare(folder, tmp_path / "out", limits=Limits(max_decode_s=0.5))
    assert manifest.count == 40
    assert [(file.path, file.reason[:32]) for file in manifest.refused] == [
        ("0007-poison.jpg", "decoding takes longer than 0.5 s")
    ]
    assert (tmp_path / "out" / "images.u8").stat().st_size == 40 * 3 * 32 * 32
