"""What browsers are told with every answer."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from app.protection import PAGES
from tests.app.conftest import Service


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs", "/v1/jobs/job_none", "/nope", "/docs", "/openapi.json"])
def test_every_answer_tells_browsers_to_keep_it_to_themselves(service: Service, path: str) -> None:
    headers = service.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy


def test_a_refusal_before_any_route_is_protected_too(service: Service) -> None:
    refused = service.http.get("/v1/jobs", headers={"Host": "evil.example"})
    assert refused.status_code == 400
    assert refused.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/models", "/v1/datasets", "/v1/images", "/v1/system", "/v1/jobs/none"]
)
def test_what_belongs_to_somebody_is_in_no_shared_cache(service: Service, path: str) -> None:
    assert "private" in service.http.get(path).headers["cache-control"]


def test_a_route_that_says_itself_how_it_is_cached_is_left_alone(service: Service) -> None:
    model_id = service.add_model()
    job_id = service.http.post("/v1/generations", json={"model": model_id}).json()["id"]
    service.worker.sample()
    [image] = service.http.get("/v1/images", params={"job": job_id}).json()["data"]
    content = service.http.get(f"/v1/images/{image['id']}/content")
    assert content.headers.get_list("cache-control") == ["private, max-age=31536000, immutable"]


def test_no_page_of_another_site_may_read_anything(service: Service) -> None:
    origin = {"Origin": "https://evil.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for response in (
        service.http.get("/v1/jobs", headers=origin),
        service.http.get("/openapi.json", headers=origin),
        service.http.post("/v1/generations", headers=origin, json={}),
        service.http.options("/v1/generations", headers=preflight),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert service.http.options("/v1/generations", headers=preflight).status_code >= 400


class Page(HTMLParser):
    """What a page loads, and the scripts that are written in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        place = given.get("src") if tag != "link" else given.get("href")
        if place:
            self.loaded.append(place)
        self._in_script = tag == "script" and not place

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline.append(data)


@pytest.mark.parametrize("path", sorted(PAGES))
def test_the_documentation_loads_only_our_files_and_its_policy_allows_what_it_does(service: Service, path: str) -> None:
    response = service.http.get(path)
    page, policy = Page(response.text), response.headers["content-security-policy"]

    assert response.status_code == 200
    for place in page.loaded:
        assert place.startswith("/static-offline-docs/")
        assert service.http.get(place).status_code == 200
    for script in page.inline:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert page.loaded or page.inline
    [scripts] = re.findall(r"script-src ([^;]*)", policy)
    assert "unsafe-inline" not in scripts
    assert "http" not in policy
