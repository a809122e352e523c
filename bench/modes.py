"""`python -m bench.modes`: how many of 1,000 modes each adversarial kind finds in the same time; goes on where it stopped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.cells import OURS, Cell, kind_of
from bench.figures import Figure, print_figures
from bench.results import ROOT, Results, cores
from bench.sets import SETS, lay_out
from bench.stacking import count_modes, stacked, write
from models.catalog import KINDS
from models.choosing import choose
from models.config import TrainingConfig
from models.console import INTERRUPTED, errors, interruptible, progress, say
from models.data import PreparedImages
from models.errors import TrainingDiverged
from models.evaluation import Extractor
from models.generator import Generator
from models.sampling import latents
from models.trainer import train

HERE = Path(__file__).parent
IMAGE_SET = SETS["fashion-mnist"]
STACKED, BUDGET_S, PICTURES = 30_000, 600.0, 26_000  # VEEGAN generates 26,000, too
QUICK_STACKED, QUICK_S, QUICK_PICTURES = 256, 1.0, 128
QUICK_GREY, QUICK_LESSON = 1_000, 4_000  # pictures, and how many the classifier sees: enough to tell most clothes apart
AT_ONCE = 256
_SMALL = {"base_channels": 8, "batch_size": 16, "latent_dim": 16}

#: All that have an adversary.
ADVERSARIAL = tuple(
    name for name in OURS if "discriminator_learning_rate" in KINDS[kind_of(name)[0]].options.model_fields
)

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False)


@dataclass(frozen=True)
class Ground:
    """What all trainers share."""

    stacked: Path  # what they learn from, as prepared data
    classifier: Extractor  # of grey pictures
    accuracy: float  # of it, on pictures that it has not seen
    floor: dict[str, Any]  # what as many unseen real pictures show


@app.command(
    epilog="Example: `python -m bench.modes --only gan-dcgan`",
    help="Train each adversarial kind on stacked pictures, without labels and for the same time, and count the modes that it "
    "makes. Nothing else should run on the machine. Ctrl-C gives up the current kind and keeps the others.",
)
def main(
    only: Annotated[
        list[str] | None, typer.Option(metavar="SUBSTRING", help="Only kinds with this in their name; repeatable.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Try everything in a minute; the numbers mean nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a figure a line as JSON.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Train again what the results file has.")] = False,
    seconds: Annotated[float | None, typer.Option(metavar="S", min=0.1, help="Of training, each.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Decides weights, order and latents.")] = 0,
    results_path: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="Default: bench/results/modes.jsonl.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="The image sets' zips.")] = ROOT.parent / "shared/data",
    work: Annotated[Path, typer.Option(metavar="DIR", help="For what is made once.")] = HERE / ".work",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Default: all cores.")] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda …")] = "cpu",
) -> None:
    torch.set_num_threads(threads or cores())
    work = work / "quick" if quick else work
    results = Results(results_path or (work if quick else HERE / "results") / "modes.jsonl")
    cells = [
        Cell(
            trainer=name,
            image_set=f"stacked-{IMAGE_SET.name}",
            resolution=IMAGE_SET.resolution,
            budget_s=seconds or (QUICK_S if quick else BUDGET_S),
            seed=seed,
            pictures=QUICK_PICTURES if quick else PICTURES,
            device=device,
            options=_quick_options(name) if quick else {},
        )
        for name in ADVERSARIAL
        if not only or any(part in name for part in only)
    ]
    waiting = [cell for cell in cells if redo or cell not in results]
    with errors(as_json), interruptible() as interrupted, progress() as shown:
        whole = shown.add_task("kinds", total=len(waiting), note="")
        ground = _ground(data_dir, work, quick) if waiting else None
        for cell in waiting:
            assert ground is not None
            shown.update(whole, description=cell.trainer)
            found = _run(cell, ground, work / "modes", interrupted)
            if found is None:
                say(f"stopped in {cell.key}; what was done before is kept")
                raise typer.Exit(INTERRUPTED)
            results.append(cell, found)
            shown.advance(whole)
    print_figures([figure for cell in cells for figure in _figures(cell, results)], as_json, quick)


def _quick_options(name: str) -> dict[str, Any]:
    fields = KINDS[kind_of(name)[0]].options.model_fields
    return {option: value for option, value in _SMALL.items() if option in fields}


def _ground(data_dir: Path, work: Path, quick: bool) -> Ground:
    """Lay the pictures out, have the classifier learn, and see what real pictures show."""
    laid = lay_out(IMAGE_SET, data_dir, work, QUICK_GREY if quick else None)
    grey, unseen = PreparedImages.open(laid.prepared), PreparedImages.open(laid.held_out)
    classifier = laid.extractor(QUICK_LESSON if quick else None)
    target = work / "sets" / f"stacked-{IMAGE_SET.name}{'-quick' if quick else ''}"
    shutil.rmtree(target, ignore_errors=True)
    write(stacked(grey, QUICK_STACKED if quick else STACKED, seed=0), grey, target)
    loaded = unseen.load(IMAGE_SET.resolution)
    assert loaded.labels is not None
    right = classifier.read(loaded.pixels)[1].argmax(dim=1) == loaded.labels
    real = torch.from_numpy(stacked(unseen, QUICK_PICTURES if quick else PICTURES, seed=1))
    return Ground(target, classifier, float(right.double().mean()), count_modes(classifier, real).to_json())


def _run(cell: Cell, ground: Ground, runs: Path, interrupted: Any) -> dict[str, Any] | None:
    """Train one kind and count its modes; None where it was stopped."""
    run = runs / cell.trainer
    shutil.rmtree(run, ignore_errors=True)
    data, (name, preset) = PreparedImages.open(ground.stacked), kind_of(cell.trainer)
    choice = choose(
        name,
        cell.options,
        data.manifest,
        cell.resolution,
        torch.device(cell.device),
        preset=preset,
        budget_s=cell.budget_s,
    )
    config = TrainingConfig(
        choice.kind, cell.resolution, choice.options, budget_s=cell.budget_s, seed=cell.seed, evaluation_share=0.0
    )
    try:
        outcome = train(data, config, run, device=cell.device, should_stop=interrupted)
    except TrainingDiverged as error:
        return {"facts": {"diverged": str(error)}}
    if not outcome.finished:
        return None
    generator = Generator.load(outcome.checkpoint, cell.device)
    made = []
    for start in range(0, cell.pictures, AT_ONCE):
        seeds = range(start, min(start + AT_ONCE, cell.pictures))
        made.append(generator.render(*latents(generator, seeds, [None] * len(seeds))))
        if interrupted():
            return None
    found = count_modes(ground.classifier, torch.cat(made))
    facts = {
        "images_seen": outcome.images_seen,
        "elapsed_s": outcome.elapsed_s,
        "options": choice.options.model_dump(mode="json"),
        "classifier": ground.classifier.sha256,
        "classifier_accuracy": ground.accuracy,
    }
    say(f"done {cell.key}: {found.modes} of {found.of:,} modes, KL {found.kl:.3g}")
    return {"facts": facts, "found": found.to_json(), "floor": ground.floor}


def _figures(cell: Cell, results: Results) -> list[Figure]:
    """What is told of a kind; nothing here is claimed, so there are no bars."""
    names = (f"modes of 1,000, {cell.trainer}", f"KL to uniform, {cell.trainer}")
    row = results.get(cell)
    if row is None or "found" not in row:
        return [Figure(name, None, "-", None, "missing" if row is None else "diverged") for name in names]
    found, floor = row["found"], row["floor"]
    note = f"{found['pictures']:,} pictures after {cell.budget_s:g} s; real ones: "
    return [
        Figure(names[0], found["modes"], "-", None, f"{note}{floor['modes']}"),
        Figure(names[1], found["kl"], "-", None, f"{note}{floor['kl']:.3g}"),
    ]


if __name__ == "__main__":
    app(prog_name="python -m bench.modes")
