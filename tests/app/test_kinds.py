"""The catalogue over HTTP."""

from __future__ import annotations

from models import catalog
from tests.app.conftest import Service


def test_every_kind_is_listed_with_its_options_and_bounds(service: Service) -> None:
    page = service.http.get("/v1/kinds").json()

    assert (page["object"], page["has_more"]) == ("list", False)
    described = {kind["name"]: kind for kind in page["data"]}
    assert described.keys() == catalog.KINDS.keys()
    for name, kind in catalog.KINDS.items():
        assert described[name] == {"object": "kind", **catalog.describe(kind)}
