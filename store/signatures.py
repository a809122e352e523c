"""Signatures of webhooks, by which receivers tell them from what anybody could send: the scheme of Standard Webhooks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

PREFIX = "whsec_"  # what secrets begin with
KEY_BYTES = range(24, 65)


def signed(key: bytes, webhook_id: str, body: bytes, *, at: datetime) -> Mapping[str, str]:
    """Return the headers by which a receiver tells that a body comes from here, and when.

    Args:
        key: the secret's bytes.
        webhook_id: stays the same however often it is sent.
        body: as it is sent.
        at: the time of this attempt.

    Source: Standard Webhooks 1.0, symmetric signatures (HMAC-SHA256).
    """
    timestamp = str(int(at.timestamp()))
    digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def secret_of(secret: str, account: str) -> str:
    """Return the secret that webhooks of one account are signed with: who knows it can't forge those of another.

    Args:
        secret: the service's own.
        account: whose jobs are told of.
    """
    return (
        PREFIX + base64.b64encode(hmac.digest(key_of(secret), f"account {account}".encode(), hashlib.sha256)).decode()
    )


def key_of(secret: str) -> bytes:
    """Return the bytes of a secret as people write it, `whsec_` and base64.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError(
            f"this is no secret of webhooks; write {PREFIX} and the base64 of {KEY_BYTES[0]} to {KEY_BYTES[-1]} "
            "random bytes, as `openssl rand -base64 32` prints them"
        )
    return key
