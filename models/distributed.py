"""One training on several devices of this machine: a process for each, watched over from here.

The caller's hooks run in the caller's process. A process that fails or dies ends them all, and its error is raised here as if
the training had run in this process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

import torch

from models import checkpoint
from models.appraisal import Scorer
from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import InvalidOption, ModelsError, RankLost
from models.generator import Generator
from models.messages import Message, error_from, from_line, outcome_from, tick_from, to_line, told
from models.ranks import Ranks
from models.trainer import Outcome, Tick, train

BLAME_S = 2.0  # that is waited for a better reason when a process says that something went wrong
PART_S = 20.0  # that processes get to end by themselves when all is well


def train_on(
    devices: Sequence[str],
    data: Path,
    config: TrainingConfig,
    run_dir: Path,
    *,
    init_from: Path | None = None,
    measure: Scorer | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train as `models.trainer.train` does, data parallel where there are several devices.

    Each batch is shared evenly, so the batch size stays what the options say. A training may go on with another number of
    devices than it began with.

    Args:
        devices: `cuda:0`, `cuda:1` … each at most once; or `cpu`, several times for as many processes. One of them: it is
            trained in this process.
        data: the directory of prepared images.
        config: what to train and for how long.
        run_dir: this training's own directory.
        init_from: as for train().
        measure: gives a generator's scores, in this process, on the first device.
        on_tick: as for train(); the training waits until it returns.
        should_stop: as for train(), but of several devices it is asked at every tick and ten times a second,
            not before every step.

    Raises:
        InvalidOption: these devices cannot train together, or not share a batch.
        RankLost: a process died, or failed by no error of ours.
        ModelsError: what train() raises.
    """
    if len(devices) == 1:
        images = PreparedImages.open(data)
        return train(
            images,
            config,
            run_dir,
            init_from=init_from,
            device=devices[0],
            measure=measure,
            on_tick=on_tick,
            should_stop=should_stop,
        )
    check_together(devices, config.options.batch_size)
    with tempfile.TemporaryDirectory(prefix="darkroom-ranks-") as directory:
        task = {
            "count": len(devices),
            "meeting": str(Path(directory) / "meeting"),
            "data": str(data.absolute()),
            "run": str(run_dir.absolute()),
            "init_from": None if init_from is None else str(init_from.absolute()),
            "config": config.to_json(),
            "measured": measure is not None,
            "threads": max(1, torch.get_num_threads() // len(devices)) if devices[0] == "cpu" else 0,
        }
        with _Processes(devices, task) as processes:
            while True:
                said = processes.hear()
                if said["event"] == "outcome":
                    processes.part()
                    return outcome_from(said["outcome"])
                if said["event"] == "measure":
                    assert measure is not None
                    answer = _measured(measure, checkpoint.path_of(run_dir, said["images_seen"]), devices[0])
                else:
                    if said["event"] == "tick" and on_tick is not None:
                        on_tick(tick_from(said["tick"]))
                    answer = {"stop": should_stop is not None and should_stop()}
                processes.answer(answer)


def check_together(devices: Sequence[str], batch_size: int) -> None:
    """Raise InvalidOption where these devices cannot train together, or not share such a batch."""
    if len(devices) == 1:
        return
    of_cpu = all(device == "cpu" for device in devices)
    of_cuda = len(set(devices)) == len(devices) and all(re.fullmatch(r"cuda:\d+", device) for device in devices)
    if not devices or not (of_cpu or of_cuda):
        raise InvalidOption(
            "devices",
            f"{','.join(devices) or 'none'} cannot train together",
            "different CUDA devices such as cuda:0,cuda:1, or cpu,cpu for two processes",
        )
    Ranks(count=len(devices)).share(batch_size)


def _measured(measure: Scorer, path: Path, device: str) -> Message:
    try:
        return {"scores": dict(measure(Generator.load(path, device)))}
    except (ModelsError, RuntimeError) as error:  # rank 0 deals with them as it would with its own
        return {"error": told(error)}


class _Processes:
    """A process for each device, from the `with` statement's beginning to its end; whoever is left then is killed.

    Args:
        devices: where each computes; the first leads.
        task: what they have in common.
    """

    def __init__(self, devices: Sequence[str], task: Message) -> None:
        self._devices = devices
        self._task = task
        self._heard: SimpleQueue[tuple[int, bytes | None]] = SimpleQueue()  # rank and line; None: it said its last
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listeners: list[threading.Thread] = []

    def __enter__(self) -> _Processes:
        try:
            for rank, device in enumerate(self._devices):
                # Out of the terminal's process group: Ctrl-C is for the parent, which lets rank 0 end in good order.
                process = subprocess.Popen(
                    [sys.executable, "-m", "models.rank"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,
                )
                self._processes.append(process)
                listener = threading.Thread(target=self._listen, args=(rank, process), daemon=True)
                self._listeners.append(listener)
                listener.start()
                self._tell(rank, {**self._task, "rank": rank, "device": device})
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def hear(self) -> Message:
        """Wait for what rank 0 says next.

        Raises:
            RankLost: one of the processes died, or failed by no error of ours.
            ModelsError: one of the processes raised it.
        """
        while True:
            rank, line = self._heard.get()
            if line is None and rank > 0 and self._processes[rank].wait() == 0:
                continue  # it has heard before us that the training ends
            said = self._error(line)
            if isinstance(said, Exception) or said is None:
                raise self._to_blame(rank, said)
            return said

    def answer(self, message: Message) -> None:
        """Answer rank 0."""
        self._tell(0, message)

    def part(self) -> None:
        """Let them end by themselves."""
        until = time.monotonic() + PART_S
        for process in self._processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                return  # all that mattered is done

    def _listen(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._heard.put((rank, line))
        self._heard.put((rank, None))

    def _tell(self, rank: int, message: Message) -> None:
        stdin = self._processes[rank].stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # that it is dead will be heard
            stdin.write(to_line(message))
            stdin.flush()

    def _error(self, line: bytes | None) -> Message | ModelsError | RuntimeError | None:
        """A line's message, or the error that it tells of."""
        said = None if line is None else from_line(line)
        return error_from(said["error"]) if said is not None and said["event"] == "error" else said

    def _to_blame(self, rank: int, error: Exception | None) -> ModelsError:
        """Why the training ended: not that a rank lost touch with another one, where that one's own end can be told."""
        accounted, until = {rank}, time.monotonic() + BLAME_S
        while isinstance(error, RuntimeError) and len(accounted) < len(self._devices):
            try:
                other, line = self._heard.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            said = self._error(line)
            if isinstance(said, ModelsError) or (said is None and other not in accounted):
                rank, error = other, said
            accounted.add(other)
        if isinstance(error, ModelsError):
            return error
        what = f"failed ({error})" if error is not None else f"died ({self._exit(rank)})"
        return RankLost(rank, self._devices[rank], what)

    def _exit(self, rank: int) -> str:
        status = self._processes[rank].wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for listener in self._listeners:
            listener.join()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # what was left in its buffer is for nobody any more
                    pipe.close()
