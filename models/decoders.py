"""Image files are opened in processes of their own, under limits of processor time and memory (`models.decoding_process`).

A library that decodes pictures is the likeliest place for hostile input to do harm. One picture that takes too long, asks
for too much memory or crashes its decoder is refused for that reason; the import goes on with a fresh process.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from models.decode import Colour, Header, Pixels
from models.decoding_process import Task
from models.entries import Limits
from models.errors import LimitExceeded, Refused

_SOURCES = Path(__file__).resolve().parents[1]
_PROGRAM = "import sys; sys.path.insert(0, {!r}); from models.decoding_process import main; main({}, {})"
# No variable of ours or of the host's goes along. What counts as address space is kept small: one heap, no idle threads.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_PATIENCE = 10  # a process that got so much less processor time than time has gone by is stuck, not busy

_Reply = tuple[dict[str, Any], bytes]  # and pixels, where it is about some


class Decoders:
    """Processes that decode, one for each thread that asks; started when needed. Use it in a `with` statement.

    Args:
        limits: pixels, seconds and bytes that one picture may take, and how many pictures may cost a process.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lost = 0
        self._is_closed = False

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends every process, also those that are busy: whoever waits for one gets Refused."""
        with self._lock:
            self._is_closed = True
            processes = list(self._all)
        for process in processes:
            process.kill()

    def headers(self, files: Sequence[bytes]) -> list[Header | Refused]:
        """See decode.read_header; in the place of a file that cannot be used stands why."""
        return [
            reply if isinstance(reply, Refused) else Header(**reply[0])
            for reply in self._ask(files, self._task(len(files)))
        ]

    def decode(
        self, files: Sequence[bytes], resolution: int, channels: int | None, background: Colour
    ) -> list[Pixels | Refused]:
        """See decode.decode; in the place of a file that cannot be used stands why, also where decoding it took too long, too
        much memory, or crashed.

        Raises:
            LimitExceeded: it was one too many that cost a process.
        """
        return [
            reply if isinstance(reply, Refused) else np.frombuffer(reply[1], np.uint8).reshape(reply[0]["shape"])
            for reply in self._ask(
                files, replace(self._task(len(files)), resolution=resolution, channels=channels, background=background)
            )
        ]

    def _task(self, files: int) -> Task:
        return Task(files, self._limits.max_pixels, self._limits.max_decode_s)

    def _ask(self, files: Sequence[bytes], task: Task) -> list[_Reply | Refused]:
        """A reply for each file. What comes after one that cost a process is given to the next."""
        replies: list[_Reply | Refused] = []
        while len(replies) < len(files):
            process = self._borrow()
            try:
                for reply, pixels in process.ask(files[len(replies) :], task):
                    replies.append(Refused(reply["refused"]) if "refused" in reply else (reply, pixels))
            except _Lost as lost:
                self._bury(process)
                replies.append(Refused(str(lost)))
            else:
                with self._lock:
                    self._idle.append(process)
        return replies

    def _borrow(self) -> _Process:
        with self._lock:
            if self._is_closed:
                raise Refused("the import has ended")
            if self._idle:
                return self._idle.pop()
            process = _Process(self._limits.max_memory_bytes)
            self._all.add(process)
            return process

    def _bury(self, process: _Process) -> None:
        process.kill()
        with self._lock:
            self._all.discard(process)
            if self._is_closed:
                return
            self._lost += 1
            lost = self._lost
        if lost > self._limits.max_lost_decoders:
            raise LimitExceeded(
                "max_lost_decoders",
                f"more than {self._limits.max_lost_decoders} files took too long to decode or crashed their decoder; "
                "leave those out and import the others",
            )


class _Lost(Exception):
    """The process is of no more use; the message says why, to the owner of the file."""


class _Process:
    """One process and our end of the socket pair."""

    def __init__(self, max_memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = _PROGRAM.format(str(_SOURCES), theirs.fileno(), max_memory_bytes)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where libraries complain of files
                env=_ENVIRONMENT,
                pass_fds=(theirs.fileno(),),
            )
        self._connection = Connection(ours.detach())

    def ask(self, files: Sequence[bytes], task: Task) -> Iterator[_Reply]:
        """A reply for each file; raises _Lost when none comes for the next."""
        try:
            self._connection.send_bytes(replace(task, files=len(files)).to_json())
            for data in files:
                self._connection.send_bytes(data)
            for _ in files:
                if not self._connection.poll(task.max_decode_s * _PATIENCE):
                    raise _Lost(_slow(task))
                yield json.loads(self._connection.recv_bytes()), self._connection.recv_bytes()
        except (OSError, EOFError) as error:
            self._process.kill()  # if it has not ended by itself
            ended_by = -self._process.wait()
            if ended_by == signal.SIGPROF:
                raise _Lost(_slow(task)) from error
            raise _Lost(f"it crashed its decoder ({_name(ended_by)}): save it as PNG or JPEG") from error

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._connection.close()


def _slow(task: Task) -> str:
    return f"decoding takes longer than {task.max_decode_s:g} s of processor time: save it smaller, as PNG or JPEG"


def _name(ended_by: int) -> str:
    with suppress(ValueError):
        return signal.Signals(ended_by).name
    return f"exit code {-ended_by}"
