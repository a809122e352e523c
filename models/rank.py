"""`python -m models.rank`: one process of a training on several devices, started by `models.distributed`.

The first line on its standard input says what to do. Rank 0 leads the training and passes everything that concerns the
outside on to the parent; the others follow.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

import torch

from models.config import TrainingConfig
from models.data import PreparedImages
from models.errors import ModelsError
from models.generator import Generator
from models.messages import Message, error_from, from_line, to_line, told
from models.ranks import joined
from models.trainer import Tick, follow, train

ASK_EVERY_S = 0.1  # whether to stop


class Parent:
    """The process that started this one; when it is gone, so is this one, at once."""

    def __init__(self) -> None:
        # What libraries print goes to standard error: standard output is the parent's ear.
        self._mouth = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._heard: SimpleQueue[Message] = SimpleQueue()
        self._asked_at, self._stop = 0.0, False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with os.fdopen(os.dup(0), "rb", buffering=0) as ear:
            for line in ear:
                self._heard.put(from_line(line))
        os._exit(1)

    def say(self, message: Mapping[str, object]) -> None:
        """Tell the parent something that needs no answer."""
        self._mouth.write(to_line(message))

    def hear(self) -> Message:
        """Wait for what the parent says next."""
        return self._heard.get()

    def on_tick(self, tick: Tick) -> None:
        """Have the parent's on_tick called, and go on when it has returned."""
        self.say({"event": "tick", "tick": told(tick)})
        self._stop = self.hear()["stop"]

    def should_stop(self) -> bool:
        """What the parent's should_stop says; it is asked now and then."""
        if not self._stop and time.monotonic() - self._asked_at >= ASK_EVERY_S:
            self._asked_at = time.monotonic()
            self.say({"event": "stop?"})
            self._stop = self.hear()["stop"]
        return self._stop

    def measure(self, generator: Generator) -> Mapping[str, float]:
        """Have the parent measure the checkpoint that was written of this generator just now."""
        self.say({"event": "measure", "images_seen": generator.images_seen})
        answer = self.hear()
        if "error" in answer:
            raise error_from(answer["error"])
        scores: dict[str, float] = answer["scores"]
        return scores


def main() -> int:
    """Take part in the training that the parent names; returns the exit status."""
    parent = Parent()
    try:
        take_part(parent, parent.hear())
    except Exception as error:
        if not isinstance(error, ModelsError):
            traceback.print_exc()
        parent.say({"event": "error", "error": told(error)})
        return 1
    return 0


def take_part(parent: Parent, task: Message) -> None:
    """Lead or follow a training until it ends."""
    device, run_dir = torch.device(task["device"]), Path(task["run"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    with joined(task["rank"], task["count"], device, Path(task["meeting"])) as ranks:
        init_from = None if task["init_from"] is None else Path(task["init_from"])
        data, config = PreparedImages.open(Path(task["data"])), TrainingConfig.from_json(task["config"])
        if not ranks.leads:
            follow(data, config, run_dir, init_from=init_from, device=device, ranks=ranks)
            return
        outcome = train(
            data,
            config,
            run_dir,
            init_from=init_from,
            device=device,
            measure=parent.measure if task["measured"] else None,
            on_tick=parent.on_tick,
            should_stop=parent.should_stop,
            ranks=ranks,
        )
        parent.say({"event": "outcome", "outcome": told(outcome)})


if __name__ == "__main__":
    sys.exit(main())
