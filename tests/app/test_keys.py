"""API keys over HTTP, and that no answer and no line of the log gives one away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from app.redaction import without_secrets
from store import keys
from store.database import Database
from store.local_redis import free_port
from tests.app.conftest import Service, assert_problem, make_key


def test_a_key_is_shown_once_and_works_at_once(service: Service) -> None:
    body = {"name": "shop", "scopes": ["generate"], "account": "shop", "expires_in_s": 3600}
    answer = service.http.post("/v1/keys", json=body)
    made = answer.json()

    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert (made["account"], made["scopes"], made["status"], made["name"]) == ("shop", ["generate"], "active", "shop")
    with service.client(key=made["key"]) as shop:
        assert shop.get("/v1/jobs").status_code == 200
    shown = service.http.get(answer.headers["location"]).json()
    assert shown["id"] == made["id"]
    assert "key" not in shown
    secret = made["key"].split("_", 2)[2]
    listed = service.http.get("/v1/keys").text
    assert made["id"] in listed
    assert secret not in listed
    assert keys.digest(made["key"]) not in listed


def test_a_revoked_key_is_good_for_nothing_at_once(service: Service) -> None:
    key = service.make_key("read")
    with service.client(key=key) as http:
        assert http.get("/v1/jobs").status_code == 200
        assert service.http.delete(f"/v1/keys/{keys.id_of(key)}").status_code == 204
        problem = assert_problem(http.get("/v1/jobs"), 401, "invalid_api_key")
    assert "was revoked" in problem["detail"]
    assert service.http.get(f"/v1/keys/{keys.id_of(key)}").json()["status"] == "revoked"


def test_the_last_admin_key_stays(service: Service) -> None:
    own = keys.id_of(service.key)
    assert_problem(service.http.delete(f"/v1/keys/{own}"), 409, "last_admin_key")
    assert service.http.get("/v1/jobs").status_code == 200
    assert_problem(service.http.delete("/v1/keys/key_0"), 404, "key_not_found", "key_id")


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"account": "Not An Account"}, "/account"),
        ({"account": "../b"}, "/account"),
        ({"expires_in_s": 0}, "/expires_in_s"),
        ({"name": ""}, "/name"),
    ],
)
def test_what_makes_no_key_is_refused_by_name(service: Service, change: dict[str, object], parameter: str) -> None:
    body = {"name": "x", "scopes": ["read"], **change}
    assert_problem(service.http.post("/v1/keys", json=body), 422, "invalid_parameter", parameter)


def test_no_error_repeats_the_header(service: Service) -> None:
    with service.client() as http:
        for given in (f"Bearer {service.key}x", "Bearer hunter2", "Basic aHVudGVyMg==", service.key):
            answer = http.get("/v1/jobs", headers={"Authorization": given})
            assert answer.status_code == 401
            assert given.partition(" ")[2] not in answer.text or not given.partition(" ")[2]
            assert service.key.split("_", 2)[2] not in answer.text


def test_the_log_holds_no_key_wherever_it_was_sent(tmp_path: Path) -> None:
    database, port = Database(f"sqlite:///{tmp_path}/darkroom.db"), free_port("127.0.0.1")
    database.migrate()
    key = make_key(database, "admin")
    database.close()
    secret, half = key.split("_", 2)[2], key[:-9]
    env = {
        **os.environ,
        "DARKROOM_DATA_DIR": str(tmp_path),
        "DARKROOM_PORT": str(port),
        "DARKROOM_REDIS_URL": "redis://127.0.0.1:1",
        "DARKROOM_LOG_LEVEL": "debug",  # every request's path and query are logged then
    }
    process = subprocess.Popen([sys.executable, "-m", "app.serve"], env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    written, serves = list[str](), threading.Event()

    def read() -> None:
        for line in process.stderr or []:
            written.append(line)
            if "running on" in line:
                serves.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert serves.wait(30)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:
            good = {"Authorization": f"Bearer {key}"}
            assert http.get("/v1/jobs", headers=good).status_code == 200
            for path in (
                f"/v1/jobs?api_key={key}",
                f"/v1/jobs/{key}",
                f"/{key}",
                f"/v1/images?job={half}",
                f"/x?t=Bearer%20{key}",
            ):
                http.get(path)
                http.get(path, headers=good)
            http.get("/v1/jobs", headers={"Authorization": f"Basic {key}", "X-Request-Id": key, "X-Api-Key": key})
            http.get("/v1/jobs", headers={"Cookie": f"key={key}", "User-Agent": key, "Host": key})
            http.post("/v1/generations", headers=good, json={"model": key})
            made = http.post("/v1/keys", headers=good, json={"name": "x", "scopes": ["read"]}).json()["key"]
    finally:
        process.send_signal(signal.SIGTERM)
        reader.join(20)
        process.wait(20)
        process.stderr.close()
    log = "".join(written)
    assert "GET /v1/jobs?api_key=dk_" in log
    assert "[secret]" in log
    for one in (secret, half.split("_", 2)[2], made.split("_", 2)[2]):
        assert one not in log


@pytest.mark.parametrize("form", ["{key}", "x={key}&y=1", "Bearer {key}", "bearer%20{key}", "dk%5F{rest}", '"{key}"'])
def test_what_looks_like_a_key_is_taken_out_but_for_its_id(form: str) -> None:
    key = f"dk_{'0a' * 16}_{'S3cret-_' * 5}abc"
    text = without_secrets(form.format(key=key, rest=key[3:]))
    assert "S3cret" not in text
    assert "0a" * 16 in text
    assert not re.search(r"hunter2", without_secrets("Authorization: Bearer hunter2"))
