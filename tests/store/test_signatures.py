"""Signatures of webhooks."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from store.signatures import key_of, secret_of, signed


def test_a_signature_is_that_of_the_standards_other_libraries() -> None:
    """The values are the ones that the published libraries are tested with."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)
    assert signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', at=at) == {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    "secret",
    [
        base64.b64encode(b"k" * 32).decode(),
        "whsec_",
        "whsec_short",
        f"whsec_{base64.b64encode(b'k' * 23).decode()}",
        f"whsec_{base64.b64encode(b'k' * 65).decode()}",
        "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as refused:
        key_of(secret)
    assert secret.removeprefix("whsec_") not in str(refused.value) or not secret.removeprefix("whsec_")


def test_every_account_has_a_secret_of_its_own_that_tells_nothing_of_another() -> None:
    master = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
    made = {secret_of(master, account) for account in ("default", "shop", "shop2")}
    assert len(made) == 3
    assert master not in made
    assert all(len(key_of(secret)) == 32 for secret in made)
    assert secret_of(master, "shop") in made  # the same each time, so nothing need be kept


def test_the_check_in_the_documentation_works() -> None:
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own page
    secret, body = f"whsec_{base64.b64encode(b'k' * 32).decode()}", b'{"type": "job.succeeded"}'

    headers = dict(signed(key_of(secret), "whk_1", body, at=datetime.now(UTC)))
    assert names["is_ours"](secret, headers, body)
    assert not names["is_ours"](secret, headers, body + b" ")
    assert not names["is_ours"](secret, {**headers, "Webhook-Id": "whk_2"}, body)
    old = dict(signed(key_of(secret), "whk_1", body, at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert not names["is_ours"](secret, old, body)
