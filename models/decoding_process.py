"""The process that opens image files, so that a file which crashes, hangs or fills a decoder takes only this process along.

It is started by `models.decoders` with one end of a socket pair. A request is a message with a `Task` as JSON, and one for
each of the task's files with its bytes. Once all are here, each file is answered by two, a JSON object and the pixels. The
process holds no file, no secret and no connection of its parent's, may write no file, and ends when the parent does.
"""

from __future__ import annotations

import json
import resource
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from models.decode import Colour, decode, pillow_guard, read_header
from models.errors import Refused


@dataclass(frozen=True)
class Task:
    """What to do with some files; without a resolution only their headers are read."""

    files: int
    max_pixels: int
    max_decode_s: float  # of processor time, for each
    resolution: int | None = None
    channels: int | None = None
    background: Colour = (0, 0, 0)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def main(descriptor: int, max_memory_bytes: int) -> None:
    """Serve requests until the other end is closed.

    Args:
        descriptor: of this end of the socket pair.
        max_memory_bytes: of address space, this program itself included.
    """
    for signal_number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # meant for the parent, which decides what becomes of the file
        signal.signal(signal_number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, also in the midst of a library
    for limit, value in ((resource.RLIMIT_AS, max_memory_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # macOS knows no limit of address space
            resource.setrlimit(limit, (value, value))
    with Connection(descriptor) as parent, pillow_guard(), suppress(EOFError, ConnectionError):
        while True:
            task = Task(**json.loads(parent.recv_bytes()))
            for data in [parent.recv_bytes() for _ in range(task.files)]:
                signal.setitimer(signal.ITIMER_PROF, task.max_decode_s)
                reply, pixels = _done(task, data)
                signal.setitimer(signal.ITIMER_PROF, 0)
                parent.send_bytes(json.dumps(reply).encode())
                parent.send_bytes(pixels)


def _done(task: Task, data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        if task.resolution is None:
            return asdict(read_header(data, task.max_pixels)), b""
        red, green, blue = task.background
        pixels = decode(data, task.resolution, task.channels, (red, green, blue), task.max_pixels)
    except Refused as refusal:
        return {"refused": str(refusal)}, b""
    return {"shape": pixels.shape}, pixels.tobytes()
