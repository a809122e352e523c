"""Every command explains itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup, TyperOption

from app.cli import commands, main


def every_command(path: str = "darkroom", among: object = None) -> Iterator[tuple[str, TyperCommand]]:
    command = among or typer.main.get_command(commands)
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from every_command(f"{path} {name}", child)
    else:
        assert isinstance(command, TyperCommand)
        yield path, command


COMMANDS = {path: command for path, command in every_command() if not command.hidden}


def test_the_commands_that_users_were_promised_are_there() -> None:
    promised = ["up", "api", "worker", "migrate", "status", "demo", "train", "generate", "evaluate", "export", "kinds"]
    promised += ["backup", "restore", "gc"]
    promised += [f"dataset {name}" for name in ("import", "list", "show", "delete")]
    promised += [f"jobs {name}" for name in ("list", "show", "watch", "cancel", "delete")]
    promised += [f"trainings {name}" for name in ("list", "show", "metrics", "previews", "checkpoints", "promote")]
    promised += [f"models {name}" for name in ("list", "import", "show", "delete")]
    promised += [f"keys {name}" for name in ("create", "list", "revoke")]
    assert set(COMMANDS) == {f"darkroom {name}" for name in promised}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_s_help_has_an_example_of_itself(path: str) -> None:
    text = COMMANDS[path].help or ""
    assert "Example: " in text
    assert f"{path} " in text.partition("Example: ")[2] + " "


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_says_what_it_is(path: str) -> None:
    assert not [one.name for one in COMMANDS[path].params if isinstance(one, TyperOption) and not one.help]


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in COMMANDS
        if path.split()[-1] in {"list", "show", "import", "train", "generate", "evaluate", "export", "kinds", "status"}
    ],
)
def test_whatever_prints_data_can_print_json(path: str) -> None:
    assert "--json" in [flag for one in COMMANDS[path].params for flag in one.opts]


def test_a_wrong_option_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits", "--no-such-option"])
    assert ended.value.code == 2
    assert "no-such-option" in capsys.readouterr().err


def test_where_nothing_answers_the_command_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 of the loopback is nobody's
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "list", "--url", "http://127.0.0.1:1"])
    assert ended.value.code == 2
    assert "darkroom up" in capsys.readouterr().err
