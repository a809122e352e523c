"""What a watcher sees, in a terminal and in a file."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from app.cli.watching import Bars, _BarView, _LineView, _View

JOB: dict[str, Any] = {"id": "job_1", "kind": "train", "status": "queued", "progress": None}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("snapshot", {"status": "running", "progress": {"done": 0, "total": 100, "unit": "seconds"}}),
    ("metrics", {"images_seen": 5000, "images_per_s": 1234.5, "losses": {"D_real": 0.485, "G": 1.5551}}),
    ("progress", {"done": 39.2, "total": 100.0, "unit": "seconds", "rate": 1.0, "eta_s": 60.8}),
]


def told(view: _View) -> None:
    for kind, data in EVENTS:
        view.take(kind, data)


def test_a_terminal_of_80_columns_shows_bar_losses_speed_and_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bars = Bars(console)
    told(_BarView(JOB, bars))

    with console.capture() as capture:
        console.print(bars.get_renderable())

    first, second = capture.get().rstrip("\n").split("\n")
    assert first.split()[0] == "training"
    assert first.rstrip().endswith("39 % 1 min 01 s left")
    assert "━" * 10 in first
    assert second.strip() == "39/100 seconds  1,234 images/s  loss D_real 0.485  G 1.555"


def test_a_file_gets_a_line_for_each_change_of_status_and_few_more(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    view = _LineView(JOB, Console(file=file, width=200))
    told(view)
    monkeypatch.setattr("app.cli.watching.PLAIN_INTERVAL_S", 0.0)
    view.take("progress", {"done": 40.0})
    view.take("done", {"status": "succeeded"})

    lines = file.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["training", "training", "succeeded"]
    assert lines[1] == "training: 40/100 seconds  1,234 images/s  loss D_real 0.485  G 1.555  1 min 01 s left"


def test_quality_stays_in_view_between_measurements_and_notes_until_there_are_numbers() -> None:
    view = _View(JOB)
    view.take("note", {"text": "an extractor learns the data set: 10 %"})
    assert view.details == "an extractor learns the data set: 10 %"
    told(view)
    view.take("metrics", {"images_seen": 6000, "losses": {"G": 1.0}, "scores": {"fd_domain": 3.14159}})
    view.take("metrics", {"images_seen": 7000, "losses": {"G": 1.5}})
    assert view.details == "39/100 seconds  FD-domain 3.14  loss G 1.500"


def test_troubles_stand_behind_the_losses_while_they_last() -> None:
    view = _View(JOB)
    told(view)
    view.take("metrics", {"losses": {"G": 1.0}, "troubles": [{"name": "coverage_drop", "says": "…", "images_seen": 9}]})
    assert view.details.endswith("loss G 1.000  !coverage_drop")
    view.take("metrics", {"losses": {"G": 1.0}})
    assert "!" not in view.details
