"""Habits that are checked by reading the source."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "models", "store", "worker")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_SOURCES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
LONGEST = 500  # lines
NAMELESS = {"utils", "helpers", "common", "misc", "manager"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_one_noun_needs() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in ALL_SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_every_file_has_a_noun_for_a_name() -> None:
    assert [_name(path) for path in ALL_SOURCES if {path.stem, *path.relative_to(ROOT).parent.parts} & NAMELESS] == []


def test_only_the_database_commits() -> None:
    commits = {
        _name(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    }
    assert commits == {"store/database.py"}


def test_every_module_says_what_it_is() -> None:
    texts = {_name(path): path.read_text() for path in SOURCES}
    assert [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))] == []
