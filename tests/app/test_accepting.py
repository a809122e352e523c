"""Which form of an answer an Accept header prefers."""

from __future__ import annotations

import pytest

from app.accepting import picture_wanted
from app.errors import NotAcceptable


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, None),
        ("*/*", None),
        ("application/json", None),
        ("text/html", None),
        ("image/png", "png"),
        ("image/webp", "webp"),
        ("Image/JPEG", "jpeg"),
        ("image/*", "png"),
        ("image/png, image/webp", "png"),
        ("image/png;q=0.5, image/webp", "webp"),
        ("image/jpeg; q=0.9, image/webp; q=0.8, application/json;q=0.1", "jpeg"),
        ("application/json, image/webp;q=0.9", None),
        ("application/json, image/webp", None),
        ("image/*;q=0.5, image/jpeg", "jpeg"),
        ("image/*, image/png;q=0", "webp"),
        ("image/webp;q=0", None),
        ("image/avif,image/webp,*/*;q=0.8", "webp"),
        ("image/png, */*", "png"),
        ("image/png;q=0.5, */*", None),
        ("image/webp;q=nonsense", "webp"),
        (",;,", None),
    ],
)
def test_the_heaviest_form_wins_and_json_among_equals(accept: str | None, wanted: str | None) -> None:
    found = picture_wanted(accept, 1)
    assert (found.format if found else None) == wanted


@pytest.mark.parametrize("accept", ["image/webp, application/json;q=0.1", "image/webp, */*;q=0.1", "application/json"])
def test_several_pictures_are_json_where_that_will_do(accept: str) -> None:
    assert picture_wanted(accept, 2) is None


@pytest.mark.parametrize("accept", ["image/webp", "image/*", "image/jpeg, application/json;q=0"])
def test_several_pictures_do_not_fit_into_one(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="2 images"):
        picture_wanted(accept, 2)
