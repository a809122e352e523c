"""Child processes: started in order, restarted with growing pauses when they die, stopped together in reverse order.

`darkroom up` keeps Redis, the API and the worker launcher this way, and the launcher its workers. The children stay in
the parent's process group, so that closing the terminal ends all of them, but only the parent hears Ctrl-C: it then
stops them in good order (docs/decisions/0005-processes.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = (
    10.0  # what was killed often is back within seconds, and a program that cannot start is not tried hotly
)
STEADY_S = 60.0  # a child that ran this long has recovered: its next pause is the first again
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Program:
    """What to run.

    Args:
        name: what people call it, in messages.
        argv: the command line; called for each start, so that a start can have its own name or token.
        env: variables on top of the parent's.
        log: file to append its output to; None: the parent's own output.
        restart: whether it is started again when it ends; when not, its end changes nothing else.
        on_exit: told after each end of the process that its argv started.
    """

    name: str
    argv: Callable[[], list[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    restart: bool = True
    on_exit: Callable[[list[str], int], None] | None = None


@dataclass
class _Child:
    program: Program
    argv: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    due_at: float | None = 0.0  # when to start it (monotonic seconds); None: never again


class Supervisor:
    """Keeps programs running until it is told to stop. One for each process, on its main thread."""

    def __init__(self, programs: Sequence[Program], *, grace_s: float, together: bool = False) -> None:
        """Starts nothing yet.

        Args:
            programs: in the order in which to start them; they are stopped in the reverse order.
            grace_s: how long each gets to end after SIGTERM before it is killed.
            together: stop all at once, for programs that do not need each other; else one waits for the next.
        """
        self._children = [_Child(program) for program in programs]
        self._grace_s = grace_s
        self._together = together
        self._stopping = False

    def add(self, program: Program) -> None:
        """Adds a program; it starts after the others."""
        self._children.append(_Child(program))

    def stop(self) -> None:
        """Makes `run` stop the children and return; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Keeps the children running until SIGTERM, SIGINT or `stop`, then stops them all."""
        with _wake_on_signals(self._on_signal) as wait:
            try:
                while not self._stopping:
                    self._reap()
                    self._start_due()
                    wait(self._next_due_s())
            finally:
                self._stop_all()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self.stop()

    def _start_due(self) -> None:
        for child in self._children:
            if child.process is None and child.due_at is not None and child.due_at <= time.monotonic():
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.argv = child.program.argv()
        with contextlib.ExitStack() as files:
            output = None
            if child.program.log is not None:
                child.program.log.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(child.program.log.open("ab"))
            child.process = subprocess.Popen(
                child.argv,
                env={**os.environ, **child.program.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                preexec_fn=functools.partial(_as_child, os.getpid()),  # the supervisor runs on the only thread
            )
        child.started_at = time.monotonic()
        log.info("%s started (pid %d)", child.program.name, child.process.pid)

    def _reap(self) -> None:
        for child in self._children:
            code = child.process.poll() if child.process is not None else None
            if code is None:
                continue
            child.process = None
            self._told(child, code)
            if not child.program.restart:
                child.due_at = None
                continue
            if time.monotonic() - child.started_at > STEADY_S:
                child.pause_s = FIRST_PAUSE_S
            log.warning("%s ended (%s); it starts again in %.1f s", child.program.name, ending(code), child.pause_s)
            child.due_at = time.monotonic() + child.pause_s
            child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)

    def _told(self, child: _Child, code: int) -> None:
        if child.program.on_exit is None:
            return
        try:
            child.program.on_exit(child.argv, code)
        except Exception:
            log.exception("the end of %s could not be dealt with", child.program.name)

    def _next_due_s(self) -> float:
        due = [child.due_at for child in self._children if child.process is None and child.due_at is not None]
        return max(0.0, min([1.0, *(at - time.monotonic() for at in due)]))

    def _stop_all(self) -> None:
        groups = [self._children] if self._together else [[child] for child in reversed(self._children)]
        for group in groups:
            for child in group:
                if child.process is not None:
                    child.process.terminate()
            deadline = time.monotonic() + self._grace_s
            for child in group:
                self._await_end(child, deadline)

    def _await_end(self, child: _Child, deadline: float) -> None:
        if child.process is None:
            return
        try:
            code = child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %.0f s and is killed", child.program.name, self._grace_s)
            child.process.kill()
            code = child.process.wait()
        child.process = None
        self._told(child, code)


def _as_child(parent_pid: int) -> None:
    # Ctrl-C reaches the whole group; the mask survives exec, so only the supervisor acts on it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    die_with_parent(parent_pid, signal.SIGTERM)


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread ends that started it (Linux; elsewhere nothing).

    Args:
        parent_pid: who started this process.
        number: the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent_pid:  # it was killed before we asked
            os._exit(1)


@contextlib.contextmanager
def _wake_on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[float], None]]:
    """Yield a wait that ends at once when a signal comes, SIGCHLD among them."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, handler) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer)

    def wait(timeout_s: float) -> None:
        select.select([reader], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, old in before.items():
            signal.signal(number, old)
        os.close(reader)
        os.close(writer)


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
