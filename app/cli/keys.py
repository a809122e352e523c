"""`darkroom keys`: who may do what."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from app.cli import output
from app.cli.credential import connect
from app.cli.options import JsonOption, UrlOption, YesOption
from app.client import DEFAULT_URL, ClientError, JsonObject

commands = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")

UNITS_S = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600, "y": 365 * 24 * 3600}
# A key's own limits, in place of the settings' (docs/security.md).
RateOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Requests a minute; 0: any number. (default: as the settings say)"),
]
ImagesOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Images a day that its account may ask for.")
]
QueueOption = Annotated[int | None, typer.Option(min=0, metavar="N", help="Jobs of its account that may wait.")]
TrainingsOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Trainings of its account that may wait or run at once.")
]
BytesOption = Annotated[
    int | None, typer.Option(min=0, metavar="BYTES", help="Bytes of pictures and data sets that its account may keep.")
]

SCOPES = ("read", "generate", "train", "admin")


@commands.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE", help="read, generate or train (each may read too), or admin: everything. May be repeated."
        ),
    ],
    account: Annotated[
        str, typer.Option(metavar="ACCOUNT", help="Whose data sets, models, jobs and images it sees and makes.")
    ] = "default",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it stops to be good: 12h, 90d, 6w, 1y. (default: never)")
    ] = None,
    rate: RateOption = None,
    images_per_day: ImagesOption = None,
    queued_jobs: QueueOption = None,
    trainings: TrainingsOption = None,
    stored_bytes: BytesOption = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="Straight into the database of this machine's settings: the way in when all keys are lost."
        ),
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Makes an API key and prints it, this once: it is kept nowhere.

    Example: darkroom keys create web-shop --scope generate --account shop --expires 90d --rate 600
    """
    lifetime_s = _seconds(expires) if expires is not None else None
    asked = {
        "requests_per_minute": rate,
        "images_per_day": images_per_day,
        "queued_jobs": queued_jobs,
        "trainings": trainings,
        "stored_bytes": stored_bytes,
    }
    limits = {limit: most for limit, most in asked.items() if most is not None}
    if local:
        made = _create_here(name, scope, account, lifetime_s, limits)
    else:
        with connect(url) as client:
            made = client.create_key(
                name, scopes=scope, account=account, expires_in_s=lifetime_s, limits=limits or None
            )
    if as_json:
        output.print_json(made)
        return
    until = f", until {output.moment(made['expires_at'])}" if made["expires_at"] else ""
    output.notes().print(
        f"{made['id']}: {' '.join(made['scopes'])} in the account {made['account']}{until}. The key, shown this once:",
        markup=False,
    )
    output.results().print(made["key"], markup=False)


@commands.command("list")
def list_(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Lists API keys, newest first, without their secrets.

    Example: darkroom keys list
    """
    with connect(url) as client:
        rows = client.keys()
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("ID", "NAME", "ACCOUNT", "SCOPES", "STATUS", "EXPIRES", "LAST USED"),
        (
            (
                row["id"],
                output.plain(row["name"]),
                row["account"],
                " ".join(row["scopes"]),
                output.status(row["status"]),
                output.moment(row["expires_at"]),
                output.moment(row["last_used_at"]),
            )
            for row in rows
        ),
        empty="There are no API keys.",
    )


@commands.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")],
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Revokes an API key: from now on it is good for nothing.

    Example: darkroom keys revoke key_019ad0… --yes
    """
    if not yes:
        typer.confirm(f"Revoke {key}?", abort=True, err=True)
    with connect(url) as client:
        client.revoke_key(key)
    output.notes().print(f"Revoked {key}.", markup=False)


def _create_here(
    name: str, scopes: list[str], account: str, lifetime_s: int | None, limits: dict[str, int]
) -> JsonObject:
    from datetime import timedelta

    from store import keys
    from store.database import Database
    from store.records import Scope
    from store.settings import load_settings

    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise ClientError("unknown_scope", f"there is no scope {unknown[0]!r}", remedy=f"choose of {', '.join(SCOPES)}")
    if not re.fullmatch(keys.ACCOUNT, account):
        raise ClientError(
            "bad_account", f"{account!r} is no name of an account", remedy="use lower-case letters, digits, . _ and -"
        )
    database = Database(load_settings().resolved_database_url)
    try:
        with database.transaction() as session:
            row, token = keys.create(
                database,
                session,
                name=name,
                scopes={Scope(scope) for scope in scopes},
                account=account,
                lifetime=timedelta(seconds=lifetime_s) if lifetime_s is not None else None,
                limits=limits,
            )
    finally:
        database.close()
    return {
        "id": row.id,
        "name": row.name,
        "account": row.account,
        "scopes": row.scopes,
        "limits": row.limits or {},
        "expires_at": row.expires_at.isoformat() if row.expires_at is not None else None,
        "key": token,
    }


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([hdwy])", text)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(
            f"{text!r} is no time span; write a number and its unit, as 12h, 90d, 6w or 1y", param_hint="--expires"
        )
    return int(found[1]) * UNITS_S[found[2]]
