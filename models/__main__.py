"""`python -m models prepare | train | sample | evaluate | …`: the library by hand, with no service around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import torch
import typer

from models import checkpoint
from models.catalog import AUTO, KINDS, DuplicatePolicy, ExportFormat, OnTrouble, wanted
from models.checkpoint import Checkpoint
from models.choosing import Inheritance, choose
from models.config import TrainingConfig
from models.console import INTERRUPTED, Device, Json, errors, interruptible, progress, say
from models.data import PreparedImages
from models.distributed import check_together, train_on
from models.errors import InvalidOption, NoCheckpoint, UnknownLabel
from models.evaluation import (
    MOST_GENERATED,
    Inception,
    evaluate,
    kept_extractor,
    live_measure,
    strips,
)
from models.event_log import FOLDER, EventLog, can_log
from models.export import export
from models.footprint import check_fits, footprint
from models.gan.netg import import_netg
from models.generator import CARD, Generator
from models.manifest import MANIFEST_NAME
from models.native import import_native
from models.png import encode, grid
from models.prepare import prepare
from models.sampling import Blend, SampleItem, Sampler
from models.source import Source
from models.telling import note, plain, say_outcome, show_evaluation
from models.trainer import Tick

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train a generator on your own pictures and develop new ones, without any service.",
)


@app.command(
    "prepare",
    epilog="Example: `python -m models prepare flowers.zip prepared/flowers --resolution 64`",
    help="Read pictures.",
)
def prepare_command(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A folder, a zip or a tar; one subfolder a class gives labels.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Directory for the prepared data.")],
    resolution: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the squares. Default: from the pictures' own size.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="1|3", help="1 grey, 3 colour. Default: 3 unless every picture is grey.")
    ] = None,
    duplicates: Annotated[
        DuplicatePolicy,
        typer.Option(help="What becomes of pictures that are there twice: exactly, byte for byte, or nearly."),
    ] = DuplicatePolicy.KEEP,
    as_json: Json = False,
) -> None:
    with errors(as_json), interruptible() as interrupted, progress() as shown:
        bar = shown.add_task("preparing", total=None, note="")
        manifest = prepare(
            source,
            target,
            resolution=resolution,
            channels=channels,
            duplicates=duplicates,
            on_progress=lambda done, total: shown.update(bar, completed=done, total=total),
            should_stop=interrupted,
        )
    if as_json:
        summary = {name: value for name, value in asdict(manifest).items() if name != "images"}
        typer.echo(json.dumps({"directory": str(target), **summary}))
        return
    size, colour = manifest.resolution, "grey" if manifest.channels == 1 else "RGB"
    classes = f" in {len(manifest.classes)} classes" if manifest.classes else ""
    say(f"{manifest.count:,} images{classes}, {size}x{size} {colour}, in {target}")
    for word, groups in (("the same file", manifest.duplicates.exact), ("near duplicates", manifest.duplicates.near)):
        if groups:
            say(f"{word}: {sum(map(len, groups)):,} images in {len(groups):,} groups, named in {MANIFEST_NAME}")
    for refused in manifest.refused[:20]:
        say(f"refused {refused.path}: {refused.reason}")
    if len(manifest.refused) > 20:
        say(f"… and {len(manifest.refused) - 20:,} more, all named in {target / 'manifest.json'}")


@app.command(
    "train",
    epilog="Example: `python -m models train prepared/digits runs/digits --seconds 120 --option base_channels=16`",
    help="Train a generator, or go on with a training that was stopped: the same command again. Ctrl-C stops safely.",
)
def train_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Directory that `prepare` wrote.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory for checkpoints and previews.")],
    kind_name: Annotated[
        str, typer.Option("--kind", metavar="KIND", help=f"{', '.join(KINDS)}, or {AUTO} to have one chosen.")
    ] = AUTO,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Options of the kind that go together.")] = None,
    resolution: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Default: the largest that kind and data allow.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL_DIR",
            help="Begin with the weights of this run, checkpoint or native export; kind, resolution and options are then its.",
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(metavar="N", help="Stop when N images were seen.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Stop after S seconds of training in all.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the kind; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides weights, order and latents.")] = 0,
    evaluation_share: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of the time, at most, for following FD-domain, KID and coverage. 0: none."),
    ] = 0.05,
    patience: Annotated[
        int | None,
        typer.Option(metavar="N", help="Stop when N measurements bring no better FD-domain. Default: go on."),
    ] = None,
    on_trouble: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Where a trouble is found (collapse, overfitting, a loss that is no number): note it, stop, or rollback: go "
            "back to where all was well, and on with one remedy more.",
        ),
    ] = "note",
    stop_on_memorising: Annotated[
        bool | None,
        typer.Option(help="End at the last healthy checkpoint when pictures are copied. Default: with --init-from."),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Of the images that are not learnt from, so that overfitting shows. 0: none."
        ),
    ] = 0.0,
    devices: Annotated[
        str,
        typer.Option(
            "--device",
            "--devices",
            metavar="DEVICE[,DEVICE]",
            help="Where to compute: cpu, cuda, or several that share each batch: cuda:0,cuda:1.",
        ),
    ] = "cpu",
    as_json: Json = False,
) -> None:
    with errors(as_json):
        together = [name.strip() for name in devices.split(",")]
        device = together[0]
        prepared = PreparedImages.open(data)
        found = checkpoint.latest(run)
        # Once there is a checkpoint, the model that it began with may be gone.
        source = _model_directory(init_from) if init_from is not None and found is None else init_from
        inheritance, own_side = _inherited(source, found)
        side = resolution or own_side or _resolution(kind_name, prepared.manifest.resolution)
        choice = choose(
            kind_name,
            _parse_pairs(option or []),
            prepared.manifest,
            side,
            torch.device(device),
            preset=preset,
            budget_images=images,
            budget_s=seconds,
            begun=found.record.config if found is not None else None,
            inheritance=inheritance,
        )
        for reason in choice.reasons:
            say(reason)
        config = TrainingConfig(
            kind=choice.kind,
            resolution=side,
            options=choice.options,
            budget_images=images,
            budget_s=seconds,
            seed=seed,
            evaluation_share=evaluation_share,
            patience=patience,
            on_trouble=cast(OnTrouble, on_trouble),  # checked there
            held_out=held_out,
            stop_on_memorising=stop_on_memorising,
        )
        check_together(together, config.options.batch_size)
        needed = footprint(prepared, config, device)
        say(f"needs {needed}" + ("" if len(together) == 1 else ", less for each device that shares the batch"))
        check_fits(needed, device)
        with interruptible() as interrupted, progress() as shown:
            lesson = shown.add_task("learning the data", total=None, note="", visible=False)
            live = live_measure(
                data,
                prepared,
                config,
                lambda extractor: extractor.save(data),
                device=device,
                on_progress=lambda done, total: shown.update(lesson, completed=done, total=total, visible=True),
                should_stop=interrupted,
            )
            shown.update(lesson, visible=False)
            if live.note is not None:
                say(live.note)
            bar = shown.add_task("training", total=1.0, note="")
            scores: dict[str, float] = {}
            newest = checkpoint.latest(run)
            events = (
                EventLog(run / FOLDER, images_seen=newest.record.images_seen if newest is not None else 0)
                if can_log()
                else None
            )

            def on_tick(tick: Tick) -> None:
                if as_json:
                    typer.echo(json.dumps({"event": "tick", **asdict(tick)}, default=plain))
                if events is not None:
                    events.on_tick(tick)
                scores.update(tick.scores or {})
                shown.update(bar, completed=tick.fraction, note=note(tick, scores))

            with events or nullcontext():
                outcome = train_on(
                    together,
                    data,
                    config,
                    run,
                    init_from=source,
                    measure=live.measure,
                    on_tick=on_tick,
                    should_stop=interrupted,
                )
    say_outcome(outcome, run, as_json)
    if not outcome.finished:
        raise typer.Exit(INTERRUPTED)


@app.command(
    "sample",
    epilog="Example: `python -m models sample runs/digits sevens.png -n 16 --seed 0 --label 7`",
    help="Develop pictures into one PNG grid. The same model, seed and label give the same pictures.",
)
def sample_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A run, a checkpoint or an exported model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The grid to write.")],
    count: Annotated[int, typer.Option("-n", metavar="N", min=1, max=4096, help="Pictures.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the first picture; the others count up.")] = 0,
    label: Annotated[str | None, typer.Option(metavar="CLASS", help="A class by name or number. Default: any.")] = None,
    to: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Go to this seed's picture instead of counting up.")
    ] = None,
    truncation: Annotated[
        float, typer.Option(metavar="PSI", min=0.001, max=1, help="Less is more typical and less varied.")
    ] = 1.0,
    columns: Annotated[int | None, typer.Option(metavar="N", min=1, help="Default: a square grid.")] = None,
    scale: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Times each pixel is repeated.")] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    with errors(as_json):
        generator = Generator.load(_model_directory(model), device)
        wanted = None if label is None else _label(label, generator.classes)
        items = (
            [SampleItem(seed + index, wanted, truncation) for index in range(count)]
            if to is None
            else [
                SampleItem(seed, wanted, truncation, Blend("slerp", to, index / max(1, count - 1)))
                for index in range(count)
            ]
        )
        pictures = Sampler(generator).sample(items)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(encode(grid([picture.pixels for picture in pictures], columns, scale)))
    if as_json:
        made = [{"seed": picture.seed, "label": picture.label} for picture in pictures]
        typer.echo(json.dumps({"path": str(out), "kind": generator.kind, "classes": generator.classes, "images": made}))
    else:
        say(f"{count:,} pictures of {generator.kind} after {generator.images_seen:,} images: {out}")


@app.command(
    "evaluate",
    epilog="Example: `python -m models evaluate runs/digits prepared/digits -n 2000`",
    help="Measure a model by real pictures: how like them, how varied, how much copied. Nothing is downloaded; the first time, "
    "a small feature extractor learns the data set and is kept beside it.",
)
def evaluate_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A run, a checkpoint or an exported model.")],
    data: Annotated[
        Path, typer.Argument(metavar="PREPARED_DIR", help="What `prepare` wrote and the model learnt from.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="PREPARED_DIR", help="Pictures that the model has not seen. Default: a fifth of its own data."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", metavar="N", min=8, max=MOST_GENERATED, help="Pictures to generate.")
    ] = 4000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the first picture; the others count up.")] = 0,
    inception_path: Annotated[
        Path | None,
        typer.Option(
            "--inception", metavar="FILE", help="torch-fidelity's Inception weights, to take FID and IS as well."
        ),
    ] = None,
    strips_path: Annotated[
        Path | None,
        typer.Option(
            "--strips", metavar="OUT.png", help="Write the pictures nearest to training pictures, each beside those."
        ),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    with errors(as_json), interruptible() as interrupted, progress() as shown:
        generator = Generator.load(_model_directory(model), device)
        prepared = PreparedImages.open(data)
        others = None if against is None else PreparedImages.open(against)
        inception = None if inception_path is None else Inception.load(inception_path, device)
        learning = shown.add_task("learning the data", total=None, note="", visible=False)
        measuring = shown.add_task("measuring", total=None, note="")
        extractor = kept_extractor(
            data,
            generator.resolution,
            device=device,
            on_progress=lambda done, total: shown.update(learning, completed=done, total=total, visible=True),
            should_stop=interrupted,
        )
        evaluation = evaluate(
            generator,
            prepared,
            extractor,
            against=others,
            n=count,
            seed=seed,
            inception=inception,
            on_progress=lambda done, total: shown.update(measuring, completed=done, total=total),
            should_stop=interrupted,
        )
        if strips_path is not None:
            strips_path.parent.mkdir(parents=True, exist_ok=True)
            strips_path.write_bytes(strips(evaluation.suspects, generator, prepared))
    if as_json:
        typer.echo(json.dumps(evaluation.to_json()))
    else:
        show_evaluation(evaluation)


@app.command(
    "export",
    epilog="Example: `python -m models export runs/digits digits-onnx --format onnx`",
    help="Hand a model on: as ONNX, as a `torch.export` program, or as it is. What is written is run and compared on the spot.",
)
def export_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A run, a checkpoint or an exported model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.")],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="onnx runs without PyTorch, torch-export without Darkroom.")
    ] = ExportFormat.ONNX,
    as_json: Json = False,
) -> None:
    with errors(as_json):
        card, difference = export(_model_directory(model), out, format_)
    files = sorted(path.name for path in out.iterdir())
    if as_json:
        made = {"directory": str(out), "format": format_, "files": files, "largest_difference": difference}
        typer.echo(json.dumps({**made, "kind": card.kind, "images_seen": card.images_seen}))
    else:
        say(f"{card.kind} after {card.images_seen:,} images as {format_}, in {out}: {', '.join(files)}")
        say(f"its pictures differ from the model's by {difference:.1g} at most, of a range from -1 to 1")


@app.command(
    "import-dcgan",
    epilog="Example: `python -m models import-dcgan netG.pth models/celebrities`",
    help="Make a `gan-dcgan` model out of the weights that the classic PyTorch DCGAN example saves.",
)
def import_dcgan_command(
    weights: Annotated[Path, typer.Argument(metavar="NETG.pth", help="What `torch.save(netG.state_dict(), …)` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The directory to make.")],
    as_json: Json = False,
) -> None:
    with errors(as_json):
        card = import_netg(weights, out)
    if as_json:
        typer.echo(json.dumps({"directory": str(out), **card.model_dump(mode="json")}))
    else:
        size, colour = card.resolution, "grey" if card.channels == 1 else "RGB"
        latent_dim, width = card.options["latent_dim"], card.options["base_channels"]
        say(f"{card.kind}, {size}x{size} {colour}, nz = {latent_dim}, ngf = {width}, in {out}")
        say(f"next:    python -m models sample {out} grid.png")


@app.command(
    "import-model",
    epilog="Example: `python -m models import-model shoes.zip models/shoes`",
    help="Make a model out of the zip of a native export, as a service gives it. Its weights are tried out first.",
)
def import_model_command(
    archive: Annotated[
        Path, typer.Argument(metavar="EXPORT.zip", help="What `darkroom export --format native` wrote.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The directory to make.")],
    as_json: Json = False,
) -> None:
    with errors(as_json):
        card = import_native(archive, out)
    if as_json:
        typer.echo(json.dumps({"directory": str(out), **card.model_dump(mode="json")}))
    else:
        say(f"{card.kind}, {card.resolution}x{card.resolution}, in {out}")
        say(f"next:    python -m models sample {out} grid.png")


def _parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """`["a=1"]` as `{"a": "1"}`."""
    parsed = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InvalidOption(pair, "is not of the form NAME=VALUE", "for example base_channels=32")
        parsed[name.strip().replace("-", "_")] = value.strip()
    return parsed


def _resolution(kind_name: str, prepared: int) -> int:
    """The largest resolution that a kind can make of images prepared at `prepared` pixels."""
    known = wanted(kind_name).resolutions
    return max((side for side in known if side <= prepared), default=min(known))


def _inherited(source: Path | None, found: Checkpoint | None) -> tuple[Inheritance | None, int | None]:
    """What a training takes from the model that it begins or began with, and that model's resolution; None without one."""
    if found is not None:
        config = found.record.config
        known = (
            Inheritance(config["kind"], config["options"], judged=False) if found.record.origin is not None else None
        )
        return known, config["resolution"] if known is not None else None
    if source is None:
        return None, None
    read = Source.read(source)
    return Inheritance(read.card.kind, read.card.options, judged=read.judged), read.card.resolution


def _model_directory(path: Path) -> Path:
    """The directory that holds the generator: `path` itself, or the newest whole checkpoint of a run."""
    if (path / CARD).exists():
        return path
    found = checkpoint.latest(path)
    if found is None:
        raise NoCheckpoint(
            f"neither a model nor a run with a checkpoint is in {path}; train one, or name another directory"
        )
    return found.path


def _label(text: str, classes: list[str] | None) -> int:
    """A class by its name or, where no class is called that, by its number."""
    if classes is not None and text in classes:
        return classes.index(text)
    if text.isdigit():
        return int(text)
    raise UnknownLabel(
        f"no class is called {text!r}; " + (f"known: {', '.join(classes)}" if classes else "ask without one")
    )


if __name__ == "__main__":
    app(prog_name="python -m models")
