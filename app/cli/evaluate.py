"""`darkroom evaluate`: how good a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption, WatchOption
from app.cli.watching import finish, watch
from app.client import DEFAULT_URL, JsonObject


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or name.")],
    count: Annotated[
        int | None, typer.Option("-n", metavar="N", help="Pictures to compare; more are surer. (default: 2000)")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET", help="Real pictures that it has not seen. (default: some of those it learned from)"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the first picture; the others count up. (default: 0)")
    ] = None,
    strips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Save a PNG of the likeliest copies, each beside training pictures."
        ),
    ] = None,
    watching: WatchOption = True,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Measures a model by real pictures: how like them, how varied, how much copied.

    Example: darkroom evaluate flowers-64 -n 4000 --strips copies.png
    """
    if strips is not None and not watching:
        raise typer.BadParameter("strips are there when the job has ended; leave out --no-watch", param_hint="--strips")
    with connect(url) as client:
        found = client.model(model)
        others = client.dataset(dataset)["id"] if dataset is not None else None
        job = client.evaluate(found["id"], n=count, dataset_id=others, seed=seed)
        if watching:
            job = watch(client, job)
            finish(job)
            if strips is not None:
                strips.parent.mkdir(parents=True, exist_ok=True)
                strips.write_bytes(client.strips(job["id"]))
    if not watching:
        if as_json:
            output.print_json(job)
        else:
            output.results().print(
                f"{job['id']} measures {job['model']}; watch it with `darkroom jobs watch {job['id']}`"
            )
        return
    evaluation = job["result"]["evaluation"]
    if as_json:
        output.print_json(evaluation)
    else:
        print_evaluation(evaluation)


def print_evaluation(evaluation: JsonObject) -> None:
    """Prints the numbers for people, and what they should know before believing them."""
    rows = [
        (output.plain(score["title"]), _value(score), f"{score['floor']:.4g}", output.plain(score["better"]))
        for score in evaluation["scores"].values()
    ]
    copies = evaluation["memorisation"]["copies"]
    rows.append(("copied pictures", f"{copies:.1%}", "1.0%", "lower"))
    output.print_table(("MEASURE", "VALUE", "FLOOR", "BETTER"), rows, empty="Nothing could be measured.")
    notes = output.notes()
    rounds = f" in each of {evaluation['rounds']} rounds" if evaluation["rounds"] > 1 else ""
    file = evaluation.get("inception_sha256")  # not in evaluations of before
    inception = f" and Inception file {file[:12]}" if file is not None else ""
    notes.print(
        f"After {output.amount(evaluation['images_seen'])} images: N = {output.amount(evaluation['n'])}{rounds}, against "
        f"{output.amount(evaluation['n_reference'])} real pictures of {output.plain(evaluation['reference'])}, "
        f"from seed {evaluation['seed']}, by extractor {evaluation['extractor_sha256'][:12]}{inception}. "
        "The floor is what as many real pictures score."
    )
    for note in evaluation["notes"]:
        notes.print(output.plain(note))


def _value(score: JsonObject) -> str:
    spread = f" ± {score['spread']:.2g}" if score["spread"] is not None else ""
    return f"{score['value']:.4g}{spread}"
