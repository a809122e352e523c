"""The command line, `darkroom`: thin commands over the HTTP API, and the commands that run the service.

Exit status: 0 all went well; 1 the job failed or was canceled; 2 the request or the service was at fault;
130 Ctrl-C while watching.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.cli import (
    credential,
    datasets,
    demo,
    evaluate,
    export,
    generate,
    jobs,
    keeping,
    keys,
    models,
    output,
    service,
    status,
    train,
    trainings,
    up,
)
from app.client import ClientError

commands = typer.Typer(
    name="darkroom",
    help="Trains image generators on your own pictures and develops new ones, over HTTP.",
    epilog="Start with `darkroom up` in one terminal, and `darkroom dataset import PATH` in another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@commands.callback()
def told(
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DARKROOM_API_KEY",
            metavar="KEY",
            show_envvar=False,
            help="The API key to send; goes before the command. Better, since no list of processes shows it: DARKROOM_API_KEY. "
            "(default: what `darkroom up` keeps in ./data for this machine)",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--kept-in", envvar="DARKROOM_DATA_DIR", hidden=True, help="Where `darkroom up` keeps its key."),
    ] = None,
) -> None:
    """Hears what comes before the command."""
    credential.hear(credential.Said(api_key, data_dir))


RUN, USE = "Run the service", "Use it"
commands.command(rich_help_panel=RUN)(up.up)
commands.command("status", rich_help_panel=RUN)(status.status)
commands.command("demo", rich_help_panel=RUN)(demo.demo)
commands.command(rich_help_panel=RUN)(service.api)
commands.command(rich_help_panel=RUN)(service.worker)
commands.command(rich_help_panel=RUN)(service.migrate)
commands.command(rich_help_panel=RUN)(keeping.backup)
commands.command(rich_help_panel=RUN)(keeping.restore)
commands.command(rich_help_panel=RUN)(keeping.gc)
commands.command(hidden=True)(up.announce)
commands.command("demo-steps", hidden=True)(demo.steps)
commands.add_typer(datasets.commands, name="dataset", rich_help_panel=USE)
commands.command("train", rich_help_panel=USE)(train.train)
commands.add_typer(trainings.commands, name="trainings", rich_help_panel=USE)
commands.command("generate", rich_help_panel=USE)(generate.generate)
commands.command("evaluate", rich_help_panel=USE)(evaluate.evaluate)
commands.command("export", rich_help_panel=USE)(export.export)
commands.add_typer(jobs.commands, name="jobs", rich_help_panel=USE)
commands.add_typer(keys.commands, name="keys", rich_help_panel=USE)
commands.add_typer(models.commands, name="models", rich_help_panel=USE)
commands.command("kinds", rich_help_panel=USE)(models.kinds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit status.

    Args:
        arguments: without the program's name; None: those of this process.
    """
    try:
        commands(args=list(arguments) if arguments is not None else None, prog_name="darkroom")
    except ClientError as error:
        output.print_error(error)
        sys.exit(2)
    except Exception as error:
        # The errors of store are imported only where something of store failed: it is slow to load.
        from store.errors import StoreError

        if not isinstance(error, StoreError):
            raise
        output.print_error(error)
        sys.exit(2)
