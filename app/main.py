"""The HTTP application: routes, errors, and the resources that it keeps open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.routing import APIRouter
from fastapi_offline import FastAPIOffline
from starlette.responses import RedirectResponse

from app import (
    bundles,
    curves,
    datasets,
    evaluations,
    events,
    exports,
    generations,
    health,
    images,
    imports,
    jobs,
    keys,
    kinds,
    learning,
    metrics,
    model_imports,
    models,
    problems,
    system,
    trainings,
    webhooks,
)
from app.admission import Authentication
from app.auth import check_routes
from app.backlog import Backlog
from app.document import describe
from app.intake import Intake
from app.keyring import Keyring
from app.middleware import Gate
from app.news import News
from app.quotas import Quotas
from app.rates import Rates
from store.resources import Resources
from store.settings import load_settings

DESCRIPTION = """
Train a generator on your own pictures, and develop new ones from it.

Long actions are **jobs**: a `202` names one in `Location`. Poll it (with `If-None-Match`), wait for it (`?wait=`), or follow
its events. Every create of one honours `Idempotency-Key`. Every error is `application/problem+json`.

Send an **API key** with everything: `Authorization: Bearer dk_…`. It has an account, whose data sets, models, jobs and images
it sees, and scopes: `read`, `generate` and `train` (each with `read`), or `admin` (everything, of every account).
"""
TAGS = [
    {"name": "datasets", "description": "Pictures to learn from."},
    {"name": "kinds", "description": "What can be trained."},
    {"name": "trainings", "description": "From a data set to a model."},
    {"name": "models", "description": "Trained generators."},
    {"name": "evaluations", "description": "How good a model is."},
    {"name": "exports", "description": "Models as files that run elsewhere."},
    {"name": "generations", "description": "New pictures."},
    {"name": "jobs", "description": "Long actions: their state, progress and events."},
    {"name": "images", "description": "Generated pictures."},
    {"name": "keys", "description": "Who may do what."},
    {"name": "health", "description": "Is it alive, can it work, how much does it do."},
]
ROUTERS = [
    router
    for module in (
        generations,  # first what is asked for most: routes are tried in this order
        images,
        jobs,
        events,
        bundles,
        datasets,
        imports,
        kinds,
        trainings,
        learning,
        models,
        model_imports,
        curves,
        evaluations,
        exports,
        webhooks,
        system,
        keys,
        health,
        metrics,
    )
    for router in [module.router]
]
# Pictures that are resized or encoded at once, each on a core; others wait, so that all else is answered meanwhile.
MOST_ENCODERS = 4

root = APIRouter()


@root.get("/", include_in_schema=False)
async def to_the_docs() -> RedirectResponse:
    """There is no page yet, so show what the service can do."""
    return RedirectResponse("/docs")


def create_app(resources: Resources | None = None) -> FastAPI:
    """Return the application.

    Args:
        resources: open ones that their owner closes. None: the application opens what the settings say when it starts,
            and closes it when it stops.

    Raises:
        SettingsError: a setting is wrong.
        RuntimeError: a route does not say which scope it needs.
    """
    settings = resources.settings if resources is not None else load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        attached = resources if resources is not None else Resources.open(settings)
        news = News(attached.bus, attached.blobs.get)
        app.state.resources, app.state.news = attached, news
        app.state.intake = Intake(attached, news, Backlog(attached), Quotas(attached))
        app.state.rates = Rates(attached.counters)
        app.state.keyring = Keyring(attached.database) if settings.auth == "on" else None
        app.state.encoders = CapacityLimiter(min(os.cpu_count() or 1, MOST_ENCODERS))
        check_routes(app)  # again: somebody may have added one
        news.start()
        try:
            yield
        finally:
            news.hush()
            news.join()
            if app.state.keyring is not None:
                await app.state.keyring.close()
            await app.state.rates.close()
            if resources is None:
                attached.close()

    app = FastAPIOffline(  # the docs page loads nothing from elsewhere
        title="Darkroom", version=version("darkroom"), description=DESCRIPTION, openapi_tags=TAGS, lifespan=lifespan
    )
    app.state.metrics = metrics.Metrics()
    app.add_middleware(Authentication)
    app.add_middleware(Gate, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(metrics.Meter, durations=app.state.metrics.durations)  # outermost: it measures refusals too
    problems.install(app)
    # One flat list, before FastAPI's own pages: of nested routers each would be asked for the way twice.
    app.router.routes[:0] = [route for router in (*ROUTERS, root) for route in router.routes]
    check_routes(app)
    describe(app)
    return app
