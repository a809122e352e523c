"""In front of every route: who asks, and whether not too much was asked for already."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth import EVERYBODY, Caller, is_open
from app.errors import InvalidKey
from app.keyring import Keyring
from app.rates import Rates, Standing, network_of
from store.settings import Settings


class Authentication:
    """Puts the caller into the request's state, or refuses the request before any route sees it.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; raises MissingKey, InvalidKey or RateLimited."""
        if scope["type"] != "lifespan" and not is_open(scope.get("method", ""), scope["path"]):
            keyring, state = scope["app"].state.keyring, scope.setdefault("state", {})
            if keyring is None:
                state["caller"] = EVERYBODY
            else:
                state["caller"], state["standing"] = await _admitted(scope, keyring)
        await self.app(scope, receive, send)


async def _admitted(scope: Scope, keyring: Keyring) -> tuple[Caller, Standing | None]:
    """Who asks, and how much of the key's rate is left; None where it has none.

    Where too many wrong keys came from an address, those that this process knows go on, and no others are looked up for it.
    """
    rates: Rates = scope["app"].state.rates
    settings: Settings = scope["app"].state.resources.settings
    most_failures = settings.rate_failures_per_address

    def guard() -> None:
        if most_failures:
            rates.check(_failures_of(scope), most_failures)

    try:
        caller = await keyring.identify(scope["headers"], guard)
    except InvalidKey:
        if most_failures:
            rates.count(_failures_of(scope), most_failures)
        raise
    limit = caller.limits.get("requests_per_minute", settings.rate_per_key)
    return caller, rates.count(caller.key_id, limit) if limit else None


def _failures_of(scope: Scope) -> str:
    return f"failures:{network_of(scope.get('client'))}"
