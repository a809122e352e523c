"""The figures that we claim, each from cells of the results, against its bar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bench.cells import (
    AUTO,
    FASHION_S,
    OURS,
    PLAIN,
    PRODUCE_S,
    PYTHAE,
    SHORT_S,
    SPEED,
    TURN_S,
    Cell,
    Plan,
    contenders,
)
from bench.results import Results

COLLAPSED_COVERAGE = 0.1  # of the floor's, below which a training has collapsed
COLLAPSED_ALIKE = 0.5  # of the way from the floor's MS-SSIM of pairs to 1, above which it has
MEMORISED = 1.2  # times 0.5, the share of new real pictures that lie nearer to a training than to a held-out one


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float | None  # None: cells are missing, or diverged
    bar: str
    ok: bool | None  # None with the value
    note: str = ""  # which cells it is from, or which are missing

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def print_figures(figures: Sequence[Figure], as_json: bool, quick: bool) -> None:
    """Print figures: a table, or a line of JSON each; `quick` says that their numbers mean nothing."""
    if as_json:
        for figure in figures:
            typer.echo(json.dumps(figure.to_json(), ensure_ascii=False))
        return
    table = Table("figure", "value", "bar", "ok", "note", title="smoke: the numbers mean nothing" if quick else None)
    words = {True: "yes", False: "NO", None: "-"}
    for figure in figures:
        value = "-" if figure.value is None else _short(figure.value)
        table.add_row(figure.name, value, figure.bar, words[figure.ok], figure.note)
    Console(highlight=False).print(table)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class _Measured:
    """A finished cell, or the best way of several to make its pictures: that of the least FD-domain."""

    cell: Cell
    values: Mapping[str, float]  # by measure
    floors: Mapping[str, float]
    closer_to_training: float

    @property
    def collapsed(self) -> bool:
        """Whether there is next to no variety."""
        covered, alike = self.floors["coverage"] * COLLAPSED_COVERAGE, self.floors["ms_ssim"]
        return self.values["coverage"] < covered or self.values["ms_ssim"] > alike + COLLAPSED_ALIKE * (1 - alike)


class Figures:
    """Figures of a plan, as far as results have its cells."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self._plan = plan
        self._results = results

    def all(self) -> list[Figure]:
        """Every figure of this plan's device, in the order of the issue's table."""
        if self._plan.device != "cpu":
            return [self._speed("≥ 3", 3.0), self._of_r3()]
        figures = [self._speed("≥ 1.3", 1.3)]
        figures += self._against_plain("fashion-mnist", FASHION_S, 0.35, swd_bar=1.0)
        figures += self._against_plain("produce-64", PRODUCE_S, 0.6)
        for name in self._plan.sets:
            figures += self._variational(name)
        figures += [*self._fewshot(), self._control()]
        figures += [self._auto(name) for name in self._plan.sets]
        figures += [self._steady(kind) for kind in OURS]
        return figures

    def _measured(self, trainer: str, image_set: str, budget_s: float, seed: int = 0) -> _Measured | None:
        """What a cell gave; None while it is missing, or when it diverged."""
        cell = self._plan.cell(trainer, image_set, budget_s, seed)
        row = self._results.get(cell)
        if row is None or "measured" not in row:
            return None
        best = min(row["measured"].values(), key=lambda evaluation: float(evaluation["scores"]["fd_domain"]["value"]))
        scores = best["scores"]
        return _Measured(
            cell,
            {name: score["value"] for name, score in scores.items()},
            {name: score["floor"] for name, score in scores.items()},
            best["memorisation"]["closer_to_training"],
        )

    def _best(self, trainers: list[str] | tuple[str, ...], image_set: str, budget_s: float) -> _Measured | None:
        """The one of the least FD-domain among those that are there."""
        found = [self._measured(trainer, image_set, budget_s) for trainer in trainers]
        return min((one for one in found if one is not None), key=lambda one: one.values["fd_domain"], default=None)

    def _speed(self, bar: str, least: float) -> Figure:
        name = "gan-dcgan ÷ plain loop, training images/s, produce-64"
        row = self._results.get(self._plan.cell(SPEED, "produce-64", TURN_S))
        if row is None:
            return _missing(name, bar, SPEED)
        medians = row["facts"]["medians"]
        value = medians["gan-dcgan"] / medians[PLAIN]
        note = f"{medians['gan-dcgan']:.0f} against {medians[PLAIN]:.0f}, its best workers: {row['facts']['workers']}"
        return Figure(name, value, bar, value >= least, note)

    def _against_plain(
        self, image_set: str, budget_s: float, fd_bar: float, swd_bar: float | None = None
    ) -> Iterator[Figure]:
        """Our best kind by FD-domain over the plain loop: its FD-domain, and its SWD."""
        plain = self._measured(PLAIN, image_set, budget_s)
        ours = self._best([name for name in contenders() if name != PLAIN], image_set, budget_s)
        for measure, title, most in (("fd_domain", "FD-domain", fd_bar), ("swd", "SWD", swd_bar)):
            if most is not None:
                name = f"best of ours ÷ plain loop, {title}, {budget_s / 60:g} min, {image_set}"
                yield _ratio(name, ours, plain, measure, most)

    def _variational(self, image_set: str) -> Iterator[Figure]:
        """`vae-sigma` over the best of pythae's VAEs and samplers, and `vae-gan` over `vae-sigma`."""
        sigma = self._measured("vae-sigma", image_set, SHORT_S)
        sharp = self._measured("vae-gan", image_set, SHORT_S)
        peer = self._best(PYTHAE, image_set, SHORT_S)
        yield _ratio(f"vae-sigma ÷ best pythae VAE, FD-domain, {image_set}", sigma, peer, "fd_domain", 0.3)
        yield _ratio(f"vae-gan ÷ vae-sigma, SWD, {image_set}", sharp, sigma, "swd", 0.8)
        yield _ratio(f"vae-gan ÷ vae-sigma, coverage, {image_set}", sharp, sigma, "coverage", 0.95, more=True)

    def _fewshot(self) -> Iterator[Figure]:
        """FD-domain over the plain loop, and whether it repeats what it learnt from."""
        image_set, bar = "fewshot-hands", f"≤ {0.5 * MEMORISED:g}"
        ours = self._measured("gan-fewshot", image_set, SHORT_S)
        plain = self._measured(PLAIN, image_set, SHORT_S)
        yield _ratio(f"gan-fewshot ÷ plain loop, FD-domain, {image_set}", ours, plain, "fd_domain", 0.6)
        name = f"gan-fewshot, share nearer to a training than to a held-out picture, {image_set}"
        if ours is None:
            yield _missing(name, bar, "gan-fewshot")
        else:
            value = ours.closer_to_training
            yield Figure(name, value, bar, value <= 0.5 * MEMORISED, "new real pictures: 0.5")

    def _control(self) -> Figure:
        """How often the label that was asked for is read, by the best kind, at its longest budget."""
        name, bar = "classifier agrees with the label, fashion-mnist, best kind", "≥ 0.9"
        found = [self._measured(kind, "fashion-mnist", budget_s) for kind in OURS for budget_s in (FASHION_S, SHORT_S)]
        read = [one for one in found if one is not None and "control_accuracy" in one.values]
        if not read:
            return _missing(name, bar, "a kind that takes labels")
        best = max(read, key=lambda one: one.values["control_accuracy"])
        value = best.values["control_accuracy"]
        floor = best.floors["control_accuracy"]
        return Figure(name, value, bar, value >= 0.9, f"{best.cell.trainer}; real pictures: {floor:.3f}")

    def _auto(self, image_set: str) -> Figure:
        return _ratio(
            f"auto ÷ best kind, FD-domain, {image_set}",
            self._measured(AUTO, image_set, SHORT_S),
            self._best(OURS, image_set, SHORT_S),
            "fd_domain",
            1.15,
        )

    def _steady(self, kind: str) -> Figure:
        """How many of a kind's trainings did not collapse; one that diverged has."""
        name = f"{kind}: seeds without collapse, {' and '.join(self._plan.collapse_sets)}"
        cells = [
            self._plan.cell(kind, one, SHORT_S, seed) for one in self._plan.collapse_sets for seed in self._plan.seeds
        ]
        bar = f"{len(cells)} of {len(cells)}"
        if any(self._results.get(cell) is None for cell in cells):
            return _missing(name, bar, kind)
        found = [self._measured(kind, cell.image_set, SHORT_S, cell.seed) for cell in cells]
        steady = sum(one is not None and not one.collapsed for one in found)
        return Figure(name, steady, bar, steady == len(cells))

    def _of_r3(self) -> Figure:
        ours, classic = (self._measured(name, "produce-64", PRODUCE_S) for name in ("gan-r3", "gan-dcgan"))
        return _ratio("gan-r3 ÷ gan-dcgan, FD-domain, 10 min, produce-64", ours, classic, "fd_domain", 0.7)


def _ratio(
    name: str, ours: _Measured | None, theirs: _Measured | None, measure: str, bar: float, more: bool = False
) -> Figure:
    """One cell's measure over another's; `more` where it is to be at least the bar."""
    words = f"{'≥' if more else '≤'} {bar:g}"
    if ours is None or theirs is None:
        absent = [side for side, one in (("ours", ours), ("the other side", theirs)) if one is None]
        return _missing(name, words, " and ".join(absent))
    mine, others = ours.values[measure], theirs.values[measure]
    note = f"{ours.cell.trainer} {mine:.3g}, {theirs.cell.trainer} {others:.3g}, floor {ours.floors[measure]:.2g}"
    if others == 0:
        return Figure(name, None, words, None, note)
    value = mine / others
    return Figure(name, value, words, value >= bar if more else value <= bar, note)


def _missing(name: str, bar: str, what: str) -> Figure:
    return Figure(name, None, bar, None, f"missing: {what}")
