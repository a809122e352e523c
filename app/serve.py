"""`python -m app.serve`: the API as a process of its own."""

from __future__ import annotations

import gc
import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI

from app.heads import BoundedHeads
from app.main import create_app
from app.tracing import log_to_stderr
from store.database import Database
from store.errors import NewerSchema, SettingsError, StoreError, Unavailable
from store.keys import first_admin_key
from store.settings import Settings, load_settings

log = logging.getLogger(__name__)

GRACE_S = 10  # for requests that are being answered when the service is told to stop


class Server(uvicorn.Server):
    """uvicorn, except that streams and waits end as soon as it is told to stop."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends every wait, then every connection."""
        news = getattr(self._app.state, "news", None)  # missing where the start failed
        if news is not None:
            news.hush()
        await super().shutdown(sockets)


def server(app: FastAPI, settings: Settings) -> Server:
    """Return a server for the application, on the settings' host and port."""
    config = uvicorn.Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=BoundedHeads,
        log_config=None,
        log_level=settings.log_level,
        access_log=settings.log_level
        == "debug",  # a line for each request costs a twentieth of it; /metrics counts them
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        server_header=False,
    )
    return Server(app, config)


def _look_at_schema(database: Database) -> None:
    """Ends the process where a later release has migrated the database; any other trouble with it is answered with 503."""
    try:
        database.check_schema()
    except NewerSchema as error:
        sys.exit(f"The API does not start: {error}")
    except StoreError as error:
        log.warning("answers 503 until it is mended: %s", error)


def main() -> None:
    """Serves until SIGTERM or Ctrl-C."""
    try:
        settings = load_settings()
        app = create_app()
    except SettingsError as error:
        sys.exit(str(error))
    log_to_stderr(settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # every readiness check would fill the log
    database = Database(settings.resolved_database_url)
    try:
        _look_at_schema(database)
        if settings.auth == "on":
            _make_first_key(database)
    finally:
        database.close()
    if settings.auth == "off":
        log.warning("DARKROOM_AUTH=off: whoever reaches port %d from this machine may do everything", settings.port)
    elif not settings.is_local:
        log.info("listens on %s: let others come through a proxy with TLS, API keys travel in requests", settings.host)
    gc.freeze()  # what the start has made is never garbage: no collection need walk through it again
    server(app, settings).run()


def _make_first_key(database: Database) -> None:
    """Makes the first admin key where there is none, and shows it: past the log, which would keep it."""
    try:
        token = first_admin_key(database)
    except Unavailable as error:
        log.warning(
            "whether there is an API key could not be looked up (%s); `darkroom keys create --local` makes one", error
        )
        return
    if token is not None:
        print(  # noqa: T201
            f"\nThe first API key, with the scope admin. It is shown this once:\n\n    {token}\n\n"
            "Send it as `Authorization: Bearer …`, or set DARKROOM_API_KEY for the command line. Make others with it\n"
            "(`darkroom keys create NAME --scope generate`), and then revoke it if somebody may have read this.\n",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
