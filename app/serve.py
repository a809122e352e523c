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
from store.errors import SettingsError
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


def main() -> None:
    """Serves until SIGTERM or Ctrl-C."""
    try:
        settings = load_settings()
        app = create_app()
    except SettingsError as error:
        sys.exit(str(error))
    log_to_stderr(settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # every readiness check would fill the log
    if settings.unsafe_bind:
        log.warning(
            "listening on %s although there are no API keys yet: whoever reaches port %d may do everything",
            settings.host,
            settings.port,
        )
    else:
        log.info("listens on loopback only (%s), because there are no API keys yet", settings.host)
    gc.freeze()  # what the start has made is never garbage: no collection need walk through it again
    server(app, settings).run()


if __name__ == "__main__":
    main()
