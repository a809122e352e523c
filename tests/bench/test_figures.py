"""Figures follow from the rows of a results file, and say so when rows are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.cells import FASHION_S, PLAIN, PYTHAE, SHORT_S, SPEED, TURN_S, Cell, Plan
from bench.figures import Figure, Figures, print_figures
from bench.results import Results

PLAN = Plan()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl")


def _measured(fd: float, swd: float = 1.0, coverage: float = 0.8, ms_ssim: float = 0.2) -> dict[str, Any]:
    values = {"fd_domain": fd, "swd": swd, "coverage": coverage, "ms_ssim": ms_ssim, "control_accuracy": 0.8}
    floors = {"fd_domain": 0.01, "swd": 0.1, "coverage": 0.9, "ms_ssim": 0.2, "control_accuracy": 0.95}
    scores = {name: {"value": value, "floor": floors[name], "spread": None} for name, value in values.items()}
    return {"scores": scores, "memorisation": {"closer_to_training": 0.5}}


def _keep(results: Results, cell: Cell, **ways: dict[str, Any]) -> None:
    results.append(cell, {"facts": {}, "measured": ways})


def _figure(results: Results, name: str) -> Figure:
    (found,) = (figure for figure in Figures(PLAN, results).all() if figure.name == name)
    return found


def test_without_rows_every_figure_says_what_is_missing(results: Results) -> None:
    figures = Figures(PLAN, results).all()
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.value is None and figure.ok is None and figure.note.startswith("missing") for figure in figures)


def test_a_ratio_takes_our_best_kind_and_the_peers_best_way(results: Results) -> None:
    """Given a classic DCGAN of 1 and a VAE of 3, and a plain loop whose better way has 4, I expect 1/4."""
    _keep(results, PLAN.cell("gan-dcgan", "fashion-mnist", FASHION_S), sampled=_measured(1.0, swd=2.0))
    _keep(results, PLAN.cell("vae-sigma", "fashion-mnist", FASHION_S), sampled=_measured(3.0))
    plain = PLAN.cell(PLAIN, "fashion-mnist", FASHION_S)
    _keep(results, plain, running=_measured(9.0, swd=9.0), batch=_measured(4.0, swd=1.0))
    figure = _figure(results, "best of ours ÷ plain loop, FD-domain, 6 min, fashion-mnist")
    assert (figure.value, figure.ok) == (0.25, True)
    figure = _figure(results, "best of ours ÷ plain loop, SWD, 6 min, fashion-mnist")
    assert (figure.value, figure.ok) == (2.0, False)


def test_the_better_of_pythaes_nets_counts(results: Results) -> None:
    _keep(results, PLAN.cell("vae-sigma", "tiles-32", SHORT_S), sampled=_measured(2.0))
    for name, fd in zip(PYTHAE, (40.0, 5.0), strict=True):
        _keep(results, PLAN.cell(name, "tiles-32", SHORT_S), mixture=_measured(fd), normal=_measured(50.0))
    figure = _figure(results, "vae-sigma ÷ best pythae VAE, FD-domain, tiles-32")
    assert (figure.value, figure.ok) == (0.4, False)


def test_speed_is_the_ratio_of_medians(results: Results) -> None:
    facts = {"medians": {"gan-dcgan": 130.0, PLAIN: 100.0}, "workers": 1}
    results.append(PLAN.cell(SPEED, "produce-64", TURN_S), {"facts": facts})
    figure = _figure(results, "gan-dcgan ÷ plain loop, training images/s, produce-64")
    assert (figure.value, figure.ok) == (1.3, True)


@pytest.mark.parametrize(
    ("row", "steady"),
    [
        ({"facts": {}, "measured": {"sampled": _measured(5.0)}}, 6),
        ({"facts": {}, "measured": {"sampled": _measured(5.0, coverage=0.08)}}, 5),
        ({"facts": {}, "measured": {"sampled": _measured(5.0, ms_ssim=0.7)}}, 5),
        ({"facts": {"diverged": "D_real is not finite"}}, 5),
    ],
    ids=["healthy", "covers nothing", "all alike", "diverged"],
)
def test_collapsed_trainings_are_counted(results: Results, row: dict[str, Any], steady: int) -> None:
    cells = [PLAN.cell("gan-dcgan", name, SHORT_S, seed) for name in PLAN.collapse_sets for seed in PLAN.seeds]
    for cell in cells[1:]:
        _keep(results, cell, sampled=_measured(5.0))
    results.append(cells[0], row)
    figure = _figure(results, "gan-dcgan: seeds without collapse, fashion-mnist and tiles-32")
    assert (figure.value, figure.bar, figure.ok) == (steady, "6 of 6", steady == 6)


def test_a_torn_line_costs_only_its_own_cell(results: Results) -> None:
    """Given a file whose last line was cut off by a power failure, I expect the rows before it and after it."""
    first, second = (PLAN.cell(name, "tiles-32", SHORT_S) for name in ("gan-dcgan", "vae-sigma"))
    _keep(results, first, sampled=_measured(1.0))
    with results.path.open("a") as file:
        file.write('{"key": "gan-')
    again = Results(results.path)
    _keep(again, second, sampled=_measured(1.0))
    last = Results(results.path)
    assert first in last
    assert second in last


def test_cells_have_keys_of_their_own() -> None:
    for plan in (Plan(), Plan(quick=True), Plan(device="cuda"), Plan(images=1000)):
        keys = [cell.key for cell in plan.cells()]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("value", "shown"), [(1000.0, "1,000"), (999.0, "999"), (0.0905, "0.0905"), (1.389, "1.39")])
def test_a_table_shows_figures_short_and_whole(value: float, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_figures([Figure("modes", value, "-", None)], as_json=False, quick=False)
    assert shown in capsys.readouterr().out.split()
