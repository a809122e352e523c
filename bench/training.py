"""`python -m bench.training`: our kinds beside their peers, equal time on equal pictures; goes on where it stopped."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cells import OURS, PYTHAE, QUICK_LESSON_IMAGES, QUICK_SET_IMAGES, TURNS, Cell, Plan, kind_of
from bench.figures import Figures, print_figures
from bench.results import ROOT, Results, cores
from bench.running import ChildFailed, Runner
from bench.sets import SETS
from models.catalog import KINDS
from models.console import INTERRUPTED, errors, interruptible, progress, say
from models.errors import ModelsError, SourceMissing, Stopped

HERE = Path(__file__).parent

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False)


@app.command(
    epilog="Example: `python -m bench.training --only vae-sigma/fashion --only plain-dcgan/fashion`",
    help="Run the cells that the results file lacks, one after the other, and print the figures. Nothing else should run on "
    "the machine. Ctrl-C gives up the current cell and keeps all others; the same command goes on.",
)
def main(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="SUBSTRING", help="Only cells with this in their key; may be given several times."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Try everything in minutes; the numbers mean nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a figure a line as JSON.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Only list the cells, and which are done.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Run cells again that the results file has.")] = False,
    results_path: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="Default: bench/results/training.jsonl.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="The image sets' zips.")] = ROOT.parent / "shared/data",
    work: Annotated[Path, typer.Option(metavar="DIR", help="For what is made once.")] = HERE / ".work",
    sheets: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: bench/results/sheets.")] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Run the matrix by N images each instead of by the clock.")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Default: all cores.")] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda …")] = "cpu",
) -> None:
    plan = Plan(quick, device, images)
    work = work / "quick" if quick else work
    results = Results(results_path or (work if quick else HERE / "results") / "training.jsonl")
    cells = [cell for cell in plan.cells() if not only or any(part in cell.key for part in only)]
    if show:
        for cell in cells:
            print("done   " if cell in results else "missing", cell.key)
        return
    failed = 0
    waiting = [cell for cell in cells if redo or cell not in results]
    with errors(as_json), interruptible() as interrupted, progress() as shown:
        whole = shown.add_task("cells", total=len(waiting), note="")

        def on_note(what: str, seconds: float) -> None:
            shown.update(whole, note=f"{what}, {seconds:.0f} s")

        runner = Runner(
            data_dir=data_dir,
            work=work,
            sheets=sheets or (work if quick else HERE / "results") / "sheets",
            threads=threads or cores(),
            turns=1 if quick else TURNS,
            most=QUICK_SET_IMAGES if quick else None,
            lesson_images=QUICK_LESSON_IMAGES if quick else None,
            on_note=on_note,
            should_stop=interrupted,
        )
        for cell in waiting:
            shown.update(whole, description=cell.key)
            if reason := _cannot_run(cell):
                say(f"skipped {cell.key}: {reason}")
            else:
                try:
                    failed += not _run(runner, cell, results)
                except Stopped:
                    say(f"stopped in {cell.key}; what was done before is kept")
                    raise typer.Exit(INTERRUPTED) from None
            shown.advance(whole)
    print_figures(Figures(plan, results).all(), as_json, quick)
    if failed:
        raise typer.Exit(1)


def _run(runner: Runner, cell: Cell, results: Results) -> bool:
    """Run a cell and keep what it gave; False when it failed."""
    started = time.monotonic()
    try:
        found = runner.run(cell)
    except (SourceMissing, Stopped):
        raise
    except (ChildFailed, ModelsError) as error:  # the night's other cells are worth having
        say(f"failed {cell.key}: {error}", style="red")
        return False
    results.append(cell, found)
    say(f"done {cell.key} in {time.monotonic() - started:.0f} s: {_in_short(found)}")
    return True


def _in_short(found: dict[str, Any]) -> str:
    facts = found["facts"]
    if "diverged" in facts:
        return f"diverged: {facts['diverged']}"
    if "measured" not in found:
        return ", ".join(f"{name} {rate:.0f} images/s" for name, rate in facts["medians"].items())
    scores = [
        f"{name} FD-domain {evaluation['scores']['fd_domain']['value']:.3g}"
        for name, evaluation in found["measured"].items()
    ]
    return f"{facts['images_seen']:,} images at {facts['images_per_s']:.0f}/s; {', '.join(scores)}"


def _cannot_run(cell: Cell) -> str | None:
    """Why a cell cannot be run here and now; None: it can."""
    if cell.trainer in PYTHAE and importlib.util.find_spec("pythae") is None:
        return "pythae is not installed; bench/README.md says how"
    if cell.trainer in OURS:
        kind, resolution = KINDS[kind_of(cell.trainer)[0]], SETS[cell.image_set].resolution
        if resolution not in kind.resolutions:
            return f"{kind.name} makes no pictures of {resolution} px"
    return None


if __name__ == "__main__":
    app(prog_name="python -m bench.training")
