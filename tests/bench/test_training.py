"""The benchmark runs as its README says, at its smallest: one of our kinds and the plain loop, then resumed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.training import app
from tests.pictures import folder_of_shapes

CELLS = ("gan-dcgan/fashion-mnist/32px/1s/seed0", "plain-dcgan/fashion-mnist/32px/1s/seed0")


def _zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))


@pytest.mark.slow
def test_finished_cells_are_kept_and_give_figures_and_are_not_run_again(tmp_path: Path) -> None:
    _zip(folder_of_shapes(tmp_path / "a", 120, channels=1), tmp_path / "fashion-mnist.zip")
    _zip(folder_of_shapes(tmp_path / "b", 40, resolution=28, channels=1), tmp_path / "fashion-mnist-test.zip")
    results = tmp_path / "results.jsonl"
    command = ["--quick", "--json", "--threads", "1", "--data-dir", str(tmp_path), "--work", str(tmp_path / "work")]
    command += ["--results", str(results), *(word for cell in CELLS for word in ("--only", cell))]

    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["cell"]["trainer"] for row in rows] == ["plain-dcgan", "gan-dcgan"]
    assert [list(row["measured"]) for row in rows] == [["running-statistics", "batch-statistics"], ["sampled"]]
    for row in rows:
        assert row["facts"]["images_seen"] > 0
        assert row["facts"]["threads"] == 1
        assert row["machine"]["cores"] >= 1
        evaluation = next(iter(row["measured"].values()))
        assert evaluation["reference"] == "fashion-mnist-test.zip"
        assert {"fd_domain", "kid", "swd", "coverage", "ms_ssim"} <= set(evaluation["scores"])
    assert len({evaluation["extractor_sha256"] for row in rows for evaluation in row["measured"].values()}) == 1
    assert str(tmp_path) not in results.read_text()
    assert len(list((tmp_path / "work/quick/sheets").glob("*.png"))) == 3

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert len(results.read_text().splitlines()) == 2
    figures = {figure["name"]: figure for figure in map(json.loads, again.stdout.splitlines())}
    against_plain = figures["best of ours ÷ plain loop, FD-domain, 6 min, fashion-mnist"]
    assert against_plain["value"] > 0
    assert against_plain["ok"] == (against_plain["value"] <= 0.35)
    auto = figures["auto ÷ best kind, FD-domain, fashion-mnist"]
    assert (auto["value"], auto["ok"]) == (None, None)


def test_a_missing_image_set_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["--quick", "--only", CELLS[0], "--data-dir", str(tmp_path), "--work", str(tmp_path / "work")]
    )
    assert result.exit_code == 1
    assert "fashion-mnist.zip is missing" in result.output
    assert "--data-dir" in result.output
