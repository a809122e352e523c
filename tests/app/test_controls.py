"""What a generation may ask of its latents, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.conftest import Service, assert_problem


def ask(service: Service, **body: Any) -> Any:
    return service.http.post("/v1/generations", json={"model": service.add_model(), **body})


@pytest.mark.parametrize(
    ("body", "n", "request_"),
    [
        ({"seeds": [9, 3, 9]}, 3, {"seed": 9, "label": None, "seeds": [9, 3, 9]}),
        ({"seed": 1, "labels": ["dog", 0]}, 2, {"seed": 1, "label": None, "labels": [1, 0]}),
        ({"seeds": [4, 5], "labels": [1, 0], "n": 2}, 2, {"seed": 4, "label": None, "seeds": [4, 5], "labels": [1, 0]}),
        ({"seed": 1, "truncation": 0.5}, 1, {"seed": 1, "label": None, "truncation": 0.5}),
        ({"seed": 1, "truncation": 1}, 1, {"seed": 1, "label": None}),
        (
            {"interpolate": {"from": 7, "to": 8, "frames": 5}, "label": 1},
            5,
            {"seed": 7, "label": 1, "interpolate": {"from": 7, "to": 8, "frames": 5}},
        ),
        (
            {"n": 4, "seed": 2, "variations": {"of": 7, "strength": 0.25}},
            4,
            {"seed": 2, "label": None, "variations": {"of": 7, "strength": 0.25}},
        ),
        (
            {"mix": {"seeds": [7, 8], "weight": 0.5}},
            1,
            {"seed": 7, "label": None, "mix": {"seeds": [7, 8], "weight": 0.5}},
        ),
    ],
)
def test_a_job_says_all_that_its_images_follow_from(
    service: Service, body: dict[str, Any], n: int, request_: dict[str, Any]
) -> None:
    job = ask(service, **body).json()
    assert job["request"] == {"n": n, **request_}
    assert job["progress"]["total"] == n


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"seed": 1, "seeds": [1]}, "/seed", "does not go with seeds"),
        ({"seeds": [1], "mix": {"seeds": [1, 2], "weight": 0}}, "/mix", "does not go with seeds"),
        ({"seed": 1, "mix": {"seeds": [1, 2], "weight": 0}}, "/seed", "does not go with mix"),
        ({"label": 0, "labels": [0]}, "/labels", "does not go with label"),
        ({"labels": [0, 1], "interpolate": {"from": 1, "to": 2, "frames": 2}}, "/labels", "one class"),
        ({"labels": [0], "variations": {"of": 1, "strength": 0.1}}, "/labels", "one class"),
        ({"seeds": [1, 2], "labels": [0]}, "/labels", "1 images, but 2 by seeds"),
        ({"seeds": [1, 2], "n": 3}, "/n", "3 images, but 2 by seeds"),
        ({"n": 2, "mix": {"seeds": [1, 2], "weight": 0}}, "/n", "2 images, but 1 by mix"),
        ({"interpolate": {"from": 1, "to": 2, "frames": 501}}, "/n", "501 images"),
        ({"interpolate": {"from": 1, "to": 2, "frames": 1}}, "/interpolate/frames", "greater than or equal to 2"),
        ({"truncation": 0}, "/truncation", "greater than 0"),
        ({"truncation": 1.1}, "/truncation", "less than or equal to 1"),
        ({"variations": {"of": 1, "strength": 2}}, "/variations/strength", "less than or equal to 1"),
        ({"seeds": []}, "/seeds", "at least 1"),
        ({"labels": ["cat", "bird"]}, "/labels/1", "no class 'bird'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    service: Service, body: dict[str, Any], parameter: str, words: str
) -> None:
    assert words in assert_problem(ask(service, **body), 422, "invalid_parameter", parameter)["detail"]


def test_the_last_seed_may_be_the_largest(service: Service) -> None:
    assert ask(service, seeds=[2**32 - 1, 2**32 - 1]).status_code == 202
    assert ask(service, interpolate={"from": 2**32 - 1, "to": 0, "frames": 3}).status_code == 202


def test_a_repeated_request_finds_its_job(service: Service) -> None:
    body = {"model": service.add_model(), "interpolate": {"from": 1, "to": 2, "frames": 3}}
    other = {**body, "interpolate": {"from": 1, "to": 2, "frames": 4}}
    key = {"Idempotency-Key": "controls"}
    first, second = (service.http.post("/v1/generations", json=body, headers=key).json()["id"] for _ in range(2))
    assert first == second
    assert service.http.post("/v1/generations", json=other, headers=key).status_code == 422
