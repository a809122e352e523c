"""The demo's steps as curl commands, to be pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.client import JsonObject

PICTURE = "new.png"


def curl_lines(
    url: str,
    archive: Path,
    dataset: JsonObject,
    model: JsonObject,
    resolution: int,
    seconds: float,
    *,
    curl: str = "curl",
) -> Iterator[str]:
    """Yield commands, each below a comment, that import, train, look and generate as the demo did.

    Args:
        url: where the service is.
        archive: what was imported; a folder is zipped first.
        dataset: what it became.
        model: what was trained.
        resolution: side of its pictures, px.
        seconds: how long it was trained for.
        curl: how curl is called, with the options that send the API key.
    """
    if archive.is_dir():
        zipped = f"{archive.name}.zip"
        yield f"# pack the folder\n(cd {shlex.quote(str(archive))} && zip -qr - .) > {shlex.quote(zipped)}"
        archive = Path(zipped)
    yield (
        "# import pictures: answers with a job\n"
        f"{curl} -F {shlex.quote('name=' + dataset['name'])} -F {shlex.quote(f'file=@{archive}')} {url}/v1/datasets"
    )
    training = {
        "dataset": dataset["id"],
        "name": f"{model['name']}-again",
        "resolution": resolution,
        "budget": {"seconds": seconds},
    }
    yield f"# train on them: answers with a job and the model it makes\n{curl} {_json(training)} {url}/v1/trainings"
    yield f"# watch what goes on\n{curl} {url}/v1/jobs\n{curl} {url}/v1/models/{model['id']}"
    wanted: dict[str, Any] = {"model": model["id"], "n": 1, "seed": 7}
    if model["classes"]:
        wanted["label"] = model["classes"][-1]
    yield (
        f"# one new picture, as a PNG\n{curl} -H 'Accept: image/png' -H 'Prefer: wait=30' -o {PICTURE} \\\n"
        f"  {_json(wanted)} {url}/v1/generations"
    )


def _json(body: Mapping[str, Any]) -> str:
    return f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
