"""Runs one cell: its training in a process of its own, its pictures measured as everyone's, a contact sheet of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cells import PLAIN, SPEED, Cell
from bench.child import FACTS, Task
from bench.results import ROOT
from bench.sets import SETS, Laid, lay_out
from models.data import PreparedImages
from models.errors import Stopped
from models.evaluation import Evaluation, Gallery, evaluate
from models.generator import Generator
from models.png import encode, grid
from models.sampling import SampleItem, Sampler

SHEET_SIDE = 8  # pictures
_POLL_S = 0.2
_LOG_LINES = 15

Note = Callable[[str, float], None]  # what is done now, and seconds since it began


class ChildFailed(Exception):
    """A training ended without a result."""


@dataclass(frozen=True)
class Runner:
    """Where and how cells are run.

    Args:
        data_dir: holds the image sets' zips.
        work: for what is made once, and for the cell that is being run.
        sheets: for contact sheets.
        threads: of every training, ours and peers'.
        turns: of each trainer in a comparison of speeds.
        most: pictures to train on at most. None: all.
        lesson_images: of the extractors. None: as the library has it.
        on_note: told what is being done.
        should_stop: asked again and again; True ends the cell.
    """

    data_dir: Path
    work: Path
    sheets: Path
    threads: int
    turns: int = 3
    most: int | None = None
    lesson_images: int | None = None
    on_note: Note = lambda _what, _seconds: None
    should_stop: Callable[[], bool] = lambda: False

    def run(self, cell: Cell) -> dict[str, Any]:
        """Run a cell.

        Returns:
            `facts` of its training, and unless it diverged, or only speed was asked for, `measured`: an evaluation as JSON
            values for each way its pictures were made.

        Raises:
            ChildFailed: the training ended without a result.
            Stopped: should_stop() said so.
            ModelsError: something cannot be read, measured or written.
        """
        self.on_note("reading the image set", 0.0)
        laid = lay_out(SETS[cell.image_set], self.data_dir, self.work, self.most)
        if cell.trainer == SPEED:
            return {"facts": self._compare_speeds(cell, laid)}
        directory, facts = self._train(cell, laid)
        if "diverged" in facts:
            return {"facts": facts}
        started = time.monotonic()
        makers = _makers(cell, directory, facts)
        for name, maker in makers.items():
            self._write_sheet(cell.key if len(makers) == 1 else f"{cell.key}/{name}", maker)
        measured = {name: self._measure(cell, laid, maker).to_json() for name, maker in makers.items()}
        facts["measured_in_s"] = time.monotonic() - started
        shutil.rmtree(directory)
        return {"facts": _lasting(facts), "measured": measured}

    def _compare_speeds(self, cell: Cell, laid: Laid) -> dict[str, Any]:
        """Images a second of the plain loop and of `gan-dcgan`, both without labels, in turn."""
        rates: dict[str, list[float]] = {PLAIN: [], "gan-dcgan": []}
        options: dict[str, dict[str, Any]] = {PLAIN: {}, "gan-dcgan": {"conditional": False}}
        for _ in range(self.turns):
            for name, found in rates.items():
                turn = replace(cell, trainer=name, options={**options[name], **(cell.options if name != PLAIN else {})})
                directory, facts = self._train(turn, laid)
                found.append(facts["images_per_s"])
                if name == PLAIN:  # tried once, the best number of workers is taken in later turns
                    options[PLAIN] = {"workers": facts["workers"]}
                shutil.rmtree(directory)
        medians = {name: statistics.median(found) for name, found in rates.items()}
        workers = options[PLAIN]["workers"]
        return {"images_per_s": rates, "medians": medians, "workers": workers, "threads": self.threads}

    def _train(self, cell: Cell, laid: Laid) -> tuple[Path, dict[str, Any]]:
        directory = self.work / "cell"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        task = directory / "task.json"
        task.write_text(json.dumps(self._task(cell, laid, directory).to_json()))
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        log_path = directory / "log.txt"
        with log_path.open("w") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "bench.child", str(task.absolute())],
                cwd=ROOT,
                env={**os.environ, **threads},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its DataLoader's workers end with it
            )
            try:
                self._wait(child, f"training {cell.trainer}")
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        if child.returncode != 0:
            last = "\n".join(log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise ChildFailed(f"its training ended with status {child.returncode}:\n{last}")
        facts: dict[str, Any] = json.loads((directory / FACTS).read_text())
        return directory, facts

    def _task(self, cell: Cell, laid: Laid, directory: Path) -> Task:
        prepared, files, out = (path.absolute() for path in (laid.prepared, laid.files, directory))
        return Task(cell, prepared, files, out, self.threads)

    def _wait(self, child: subprocess.Popen[bytes], doing: str) -> None:
        started = time.monotonic()
        while True:
            try:
                child.wait(_POLL_S)
                return
            except subprocess.TimeoutExpired:
                self.on_note(doing, time.monotonic() - started)
                if self.should_stop():
                    raise Stopped("stopped while training; the cell is not kept") from None

    def _measure(self, cell: Cell, laid: Laid, maker: Generator | Gallery) -> Evaluation:
        started = time.monotonic()
        self.on_note("teaching or reading the extractor", 0.0)
        torch.set_num_threads(self.threads)
        return evaluate(
            maker,
            PreparedImages.open(laid.prepared),
            laid.extractor(self.lesson_images),
            against=PreparedImages.open(laid.held_out),
            n=cell.pictures,
            on_progress=lambda _done, _total: self.on_note("measuring", time.monotonic() - started),
            should_stop=self.should_stop,
        )

    def _write_sheet(self, title: str, maker: Generator | Gallery) -> None:
        """The pictures of the first seeds; class after class where they can be asked for."""
        count = SHEET_SIDE**2
        if isinstance(maker, Gallery):
            pictures = list(maker.images[:count].numpy())
        else:
            classes = len(maker.classes or ())
            items = [SampleItem(seed, seed % classes if classes else None) for seed in range(count)]
            pictures = [picture.pixels for picture in Sampler(maker).sample(items)]
        self.sheets.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in title)
        (self.sheets / f"{name}.png").write_bytes(encode(grid(pictures, SHEET_SIDE)))


def _makers(cell: Cell, directory: Path, facts: Mapping[str, Any]) -> dict[str, Generator | Gallery]:
    """What is to be measured, by the way its pictures were made; our kinds have one."""
    if "checkpoint" in facts:
        return {"sampled": Generator.load(Path(facts["checkpoint"]), cell.device)}
    return {
        name: Gallery(cell.trainer, torch.from_numpy(np.load(directory / f"{name}.npy")), facts["images_seen"], speed)
        for name, speed in facts["galleries"].items()
    }


def _lasting(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is said elsewhere, or names a place on this machine."""
    return {name: value for name, value in facts.items() if name not in ("checkpoint", "galleries")}
