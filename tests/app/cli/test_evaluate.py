"""An evaluation's numbers, for people."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from app.cli.evaluate import evaluate, print_evaluation


def test_numbers_are_shown_with_floor_n_and_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    evaluation = {
        "images_seen": 29504,
        "seed": 7,
        "extractor_sha256": "0123456789abcdef",
        "n": 700,
        "rounds": 2,
        "n_reference": 735,
        "reference": "produce [64].zip",
        "scores": {
            "fd_domain": {"title": "FD-domain", "better": "lower", "value": 20.63, "floor": 0.2959, "spread": 0.123},
            "coverage": {"title": "coverage", "better": "higher", "value": 0.2198, "floor": 0.9672, "spread": None},
        },
        "memorisation": {"copies": 0.034},
        "notes": ["Only 735 reference images."],
    }
    print_evaluation(evaluation)
    shown = capsys.readouterr()
    for said in ("FD-domain", "20.63 ± 0.12", "0.2959", "lower", "0.2198", "higher", "3.4%"):
        assert said in shown.out
    for said in (
        "29,504 images",
        "N = 700 in each of 2 rounds",
        "735 real pictures of produce [64].zip",
        "seed 7",
        "Only 735",
    ):
        assert said in shown.err

    print_evaluation({**evaluation, "rounds": 1})
    assert "rounds" not in capsys.readouterr().err


def test_strips_of_a_job_that_nobody_waits_for_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--no-watch"):
        evaluate("flowers", strips=Path("strips.png"), watching=False)
