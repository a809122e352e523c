"""Every error has an answer, and its tree is drawn as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import app.errors
import store.errors
from app.errors import ANSWERS, AppError, answer_to
from models.catalog import InvalidOption, UnknownKind
from store.errors import StoreError


def tree(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("error", [*tree(AppError), *tree(StoreError), UnknownKind, InvalidOption])
def test_every_error_has_an_http_status_and_a_code_of_its_own(error: type[Exception]) -> None:
    assert error in ANSWERS, f"{error.__name__} is missing in app/errors.py's table"
    answer = answer_to(error)
    assert 400 <= answer.status < 600
    assert re.fullmatch(r"[a-z_]+", answer.code)
    if answer.status == 503:
        assert answer.retry_after_s is not None


def test_an_error_that_nobody_foresaw_is_a_defect() -> None:
    assert answer_to(ZeroDivisionError).status == 500


@pytest.mark.parametrize(("module", "base"), [(app.errors, AppError), (store.errors, StoreError)])
def test_the_tree_in_the_docstring_is_the_tree(module: ModuleType, base: type[Exception]) -> None:
    path: list[str] = []
    drawn: dict[str, str | None] = {}
    for line in (module.__doc__ or "").splitlines():
        found = re.match(r"(?P<lines>[│├└─ ]*)(?P<name>[A-Z]\w+)(?:\s{2,}|$)", line)
        if found is None:
            continue
        depth = len(found["lines"]) // 4
        path[depth:] = [found["name"]]
        drawn[found["name"]] = path[depth - 1] if depth else None

    real = {error.__name__: error.__mro__[1].__name__ for error in tree(base) if error is not base}
    assert drawn == {base.__name__: None, **real}
