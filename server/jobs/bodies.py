"""Reads the body of a request, JSON or a form, into a model; what is wrong with it is said in our own words."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from ultraflash.server.body_limit import limited
from ultraflash.server.errors import (
    BadBody,
    InvalidField,
    MissingField,
    UnknownField,
    UnsupportedField,
)

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_FIELDS = 64

FindVideo = Callable[[UploadFile], Awaitable[str]]
ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(
    request: Request,
    model: type[ModelT],
    max_bytes: int,
    *,
    file_fields: Collection[str] = (),
    find_video: FindVideo | None = None,
) -> ModelT:
    """The body as ``model``. Raises an error that says what is accepted.

    ``file_fields`` may come as files and are bytes then.
    ``find_video`` turns a file in the field ``video`` into the id of the video that it is.
    """
    bounded = Request(request.scope, limited(request.receive, max_bytes))
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in FORMS:
        fields = await _form_fields(bounded, max_bytes, file_fields, find_video)
    elif kind in ("", "application/json"):
        fields = _json_fields(await bounded.body())
    else:
        raise BadBody(f"The body must be application/json or multipart/form-data, not {kind!r}.")
    return validated(fields, model)


def validated(fields: dict[str, Any], model: type[ModelT]) -> ModelT:
    """``fields`` as ``model``. Raises ``UnknownField``, ``MissingField`` or ``InvalidField`` for the first problem."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    # A name may hold half a surrogate pair, which no response can carry.
    param = ".".join(str(part) for part in first["loc"]).encode("utf-8", "replace").decode()
    if first["type"] == "extra_forbidden":
        accepted = ", ".join(model.model_fields)
        raise UnknownField(f"There is no field {param!r}; the fields are {accepted}.", param=param)
    if first["type"] == "missing":
        raise MissingField(f"The field {param!r} is missing.", param=param)
    raise InvalidField(f"The field {param!r} cannot be used: {first['msg']}.", param=param)


def _json_fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"The body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadBody("The body must be one JSON object.")
    return fields


async def _form_fields(
    request: Request, max_bytes: int, file_fields: Collection[str], find_video: FindVideo | None
) -> dict[str, Any]:
    """Fields of a form; ``video[id]`` is the field ``id`` of ``video``."""
    fields: dict[str, Any] = {}
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=max_bytes) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile) and name == "video" and find_video is not None:
                    _place(fields, "video[id]", await find_video(value))
                elif isinstance(value, UploadFile) and name in file_fields:
                    _place(fields, name, await value.read())
                else:
                    _place(fields, name, value)
    except (MultiPartException, HTTPException, UnicodeDecodeError) as error:
        raise BadBody(f"The form cannot be read: {error}") from error
    return fields


def _place(fields: dict[str, Any], name: str, value: UploadFile | str | bytes) -> None:
    outer, bracket, inner = name.partition("[")
    if isinstance(value, UploadFile):
        raise UnsupportedField(
            f"The field {name!r} came with a file and takes none here; input_reference takes a picture or a clip, and "
            "a video is named by its id.",
            param=name,
        )
    if not bracket:
        target, key = fields, name
    else:
        target, key = fields.setdefault(outer, {}), inner.removesuffix("]")
    if not isinstance(target, dict) or key in target:
        raise BadBody(f"The field {name!r} is there twice.", param=name)
    target[key] = value
