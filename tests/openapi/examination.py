"""An examination of a running service by schemathesis: requests made from its own OpenAPI document, answers held against it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.openapi.stock import Stock

LONGEST_S = 3600
SETTINGS = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class Outcome:
    """What an examination found."""

    cases: int  # requests that were sent and looked at
    failures: list[str]  # a line each
    operations: int  # that were tested
    known_operations: int  # that were to be tested
    transcript: str

    @classmethod
    def of(cls, report: Mapping[str, Any], transcript: str) -> Outcome:
        """Read schemathesis's own report."""
        failures = [f"{one['title']}: {', '.join(one['operations'])}" for one in report["failures"]]
        errors = [f"{one['title']}: {one['count']} times" for one in report["errors"]]
        operations = report["operations"]
        return cls(
            report["test_cases"]["generated"],
            failures + errors,
            operations["tested"],
            operations["selected"],
            transcript,
        )


def examine(client: httpx.Client, stock: Stock, directory: Path, **options: str) -> Outcome:
    """Run schemathesis against a service, and return what it found.

    Args:
        client: of the service; its key, where it has one, is sent with every request.
        stock: what is there.
        directory: for its settings and its report.
        options: further options of `schemathesis run`.
    """
    settings, report = Path(shutil.copy(SETTINGS, directory)), directory / "report.json"
    for name, ids in asdict(stock).items():
        (directory / f"{name}.dict").write_text("".join(f'"{one}"\n' for one in ids))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run"]
    command += [str(client.base_url.join("/openapi.json"))]
    if "Authorization" in client.headers:
        command += ["--header", f"Authorization: {client.headers['Authorization']}"]
    command += ["--report", "json", "--report-json-path", str(report), "--no-color"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    run = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
    )
    assert report.exists(), run.stdout + run.stderr
    return Outcome.of(json.loads(report.read_text()), run.stdout + run.stderr)
