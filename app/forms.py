"""What comes in beside an uploaded file: text fields, checked as FastAPI checks the bodies that it reads itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

# A form has no members within members: the URL stands for the webhook of JSON bodies.
FormWebhook = Annotated[str | None, Field(description="URL that is told when the job has ended.")]

Checked = TypeVar("Checked", bound=BaseModel)


def media_type_of(request: Request) -> str:
    """Return what the body is said to be, in lower case and without parameters; empty where nothing is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def typed(fields: Mapping[str, str], *, numbers: Collection[str] = ()) -> dict[str, Any]:
    """Return a form's fields, all of them text, as they would be in JSON.

    Args:
        fields: by name.
        numbers: names of those that are whole numbers.
    """
    values = {name: int(text) if name in numbers and text.isdecimal() else text for name, text in fields.items()}
    return values | ({"webhook": {"url": fields["webhook"]}} if "webhook" in fields else {})


def checked(model: type[Checked], values: Any) -> Checked:
    """Return the values as a model.

    Raises:
        RequestValidationError: they are none.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        ) from error
