"""docs/settings.md lists what can be set, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from store.settings import PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
ROW = re.compile(r"^\| `(?P<variable>DARKROOM_\w+)` \| (?P<default>.*?) \| (?P<description>.*) \|$", re.MULTILINE)


def _as_written(value: object) -> str:
    if value in (None, "", []):
        return "(empty)"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


def test_every_setting_is_documented_with_its_default_and_meaning() -> None:
    documented = {row["variable"]: (row["default"], row["description"]) for row in ROW.finditer(DOCS.read_text())}
    fields = {
        f"{PREFIX}{name.upper()}": (_as_written(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }
    assert all(field.default is not PydanticUndefined for field in Settings.model_fields.values())
    assert documented == fields
