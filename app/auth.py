"""Who asks, and what they may do: nothing is answered without an API key, except for what is listed as open.

`Authentication` (app/admission.py) is in front of every route, also of those that are not there. Each route says in its
signature which scope it needs; one that says nothing and is not listed as open stops the application from being made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import FastAPI, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import iter_route_contexts
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from sqlalchemy import Select

from app.errors import MissingScope
from store import records
from store.records import DEFAULT_ACCOUNT

# What is answered to everyone; `/*` ends a folder of files. Only reading: nothing that changes anything is ever open.
OPEN = frozenset(
    {
        "/",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/static-offline-docs/*",
        "/openapi.json",
        "/healthz",
        "/readyz",
    }
)
SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_FOLDERS = tuple(path.removesuffix("*") for path in OPEN if path.endswith("/*"))


class HasAccount(Protocol):
    """A row, or what was read of one."""

    @property
    def account(self) -> str:
        """Whose it is."""


Owned = TypeVar("Owned", records.Dataset, records.Model, records.Job, records.Image)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key with its account and everything that it may do."""

    key_id: str
    account: str
    scopes: frozenset[records.Scope]
    limits: Mapping[str, int] = field(default_factory=dict)  # its own in place of the settings', 0: none

    @property
    def sees_all(self) -> bool:
        """Whether rows of every account are its own."""
        return records.Scope.ADMIN in self.scopes

    def sees(self, row: HasAccount | None) -> bool:
        """Whether the row is there, as far as the caller may know."""
        return row is not None and (self.sees_all or row.account == self.account)

    def seen(self, rows: Select[Owned], record: type[Owned]) -> Select[Owned]:
        """Return the selection without the rows that the caller may not know of."""
        return rows if self.sees_all else rows.where(record.account == self.account)

    def require(self, *scopes: str) -> None:
        """Returns where the caller has one of these scopes.

        Raises:
            MissingScope: it has none.
        """
        if not self.scopes.intersection(scopes):
            wanted = " or ".join(scopes)
            raise MissingScope(
                f"this needs a key with the scope {wanted}; yours has {', '.join(sorted(self.scopes))}",
                remedy=f"ask whoever runs this service for one: `darkroom keys create NAME --scope {scopes[0]}`",
                more={"scope": wanted},
                headers={"WWW-Authenticate": f'Bearer realm="darkroom", error="insufficient_scope", scope="{wanted}"'},
            )


# With DARKROOM_AUTH=off, on loopback.
EVERYBODY = Caller("key_none", DEFAULT_ACCOUNT, frozenset(records.Scope))


class ApiKey(SecurityBase):
    """The dependency that hands the caller to a route which needs a scope; of several, one is enough."""

    def __init__(self) -> None:
        self.model = HTTPBearer(
            bearerFormat="dk_…",
            description="An API key, as `darkroom keys create` prints it once. Paste it without `Bearer`.",
        )
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:
        """Return who asks; raises MissingScope."""
        caller: Caller = request.state.caller
        caller.require(*needed.scopes)
        return caller


API_KEY = ApiKey()

MayRead = Annotated[Caller, Security(API_KEY, scopes=["read"])]
MayGenerate = Annotated[Caller, Security(API_KEY, scopes=["generate"])]
MayTrain = Annotated[Caller, Security(API_KEY, scopes=["train"])]
MayWork = Annotated[Caller, Security(API_KEY, scopes=["generate", "train"])]  # either; the route looks closer
MayAdminister = Annotated[Caller, Security(API_KEY, scopes=["admin"])]


def is_open(method: str, path: str) -> bool:
    """Whether this is answered to everyone."""
    return method in SAFE_METHODS and (path in OPEN or path.startswith(OPEN_FOLDERS))


def scopes_of(dependant: Dependant | None) -> tuple[str, ...]:
    """Return the scopes of which a route needs one; none where it does not say."""
    for one in dependant.dependencies if dependant is not None else []:
        if one.call is API_KEY:
            return tuple(one.own_oauth_scopes or ())
    return ()


def check_routes(app: FastAPI) -> None:
    """Returns where every route says which scope it needs or is listed as open, and none both.

    Raises:
        RuntimeError: one does not.
    """
    for route in iter_route_contexts(app.routes):
        path, dependant = str(route.path), getattr(route, "dependant", None)
        is_listed = path in OPEN or f"{path}/*" in OPEN
        if is_listed == bool(scopes_of(dependant)):
            raise RuntimeError(
                f"the route {path} {'needs a scope and is listed as open' if is_listed else 'says no scope that it needs'}; "
                "give it a parameter such as `caller: MayRead`, or list it in app/auth.py: OPEN"
            )


def describe_scopes(document: dict[str, Any]) -> None:
    """Adds to each operation of an OpenAPI document which scope it needs."""
    for methods in document["paths"].values():
        for operation in methods.values():
            needed = [scope for one in operation.get("security", []) for scope in one[API_KEY.scheme_name]]
            says = (
                f"Needs a key with the scope {' or '.join(f'`{scope}`' for scope in needed)}."
                if needed
                else "Needs no key."
            )
            operation["description"] += f"\n\n{says}"
