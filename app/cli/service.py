"""The parts of the service one by one, as a host's containers run them: `api`, `worker`, `migrate`."""

from __future__ import annotations

import os
import sys

from app.cli import output


def api() -> None:
    """Runs the API alone, on DARKROOM_HOST and DARKROOM_PORT.

    It needs a database that `darkroom migrate` has prepared, and the Redis of DARKROOM_REDIS_URL.

    Example: DARKROOM_PORT=8080 darkroom api
    """
    _become("app.serve")


def worker() -> None:
    """Runs this host's workers: one set for each device of DARKROOM_DEVICES.

    They are restarted when they die; on SIGTERM they finish or hand back their work.

    Example: DARKROOM_DEVICES=cuda:0 darkroom worker
    """
    _become("worker.launch")


def migrate() -> None:
    """Brings the database's tables to this release; running it twice does no harm.

    Example: DARKROOM_DATABASE_URL=postgresql+psycopg://darkroom:secret@db/darkroom darkroom migrate
    """
    from store.database import Database
    from store.settings import load_settings

    database = Database(load_settings().resolved_database_url)
    database.migrate()
    output.notes().print(
        f"The database is up to date: {database.url.render_as_string(hide_password=True)}", markup=False
    )
    database.close()


def _become(module: str) -> None:
    # The process itself is replaced, so that signals and exit status are the program's own. The command line can't
    # import the worker, nor does it need to.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606  # no shell is wanted
