"""The pictures of a request, within bounds."""

import base64
import binascii
import json
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

Picture = tuple[str, bytes]


class Bad(Exception):
    """A request that is not answered; ``status``: HTTP's number for why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


async def pictures_of(request: Request, most: int, most_bytes: int) -> list[Picture]:
    """Names and contents: of a form's files, of ``{"images": [base64, ...]}``, or the body itself.

    Raises Bad where there is none, or more than ``most``, or more than ``most_bytes`` in all.
    """
    await _bounded(request, most_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _of_form(request, most)
    elif kind == "application/json":
        found = _of_json(await request.body())
    else:
        body = await request.body()
        found = [("body", body)] if body else []
    if not found:
        raise Bad(400, 'no picture: send its bytes, a form with files, or {"images": [base64, ...]}')
    if len(found) > most:
        raise Bad(413, f"{len(found)} pictures; {most} at a time are allowed")
    return found


async def _bounded(request: Request, most_bytes: int) -> None:
    """Read the body as long as it is within the bound; later readers find it there."""
    words = f"more than {most_bytes / 1e6:g} MB"
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > most_bytes:
        raise Bad(413, words)
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > most_bytes:
            raise Bad(413, words)
        parts.append(part)
    request._body = b"".join(parts)  # where starlette itself keeps it


async def _of_form(request: Request, most: int) -> list[Picture]:
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            return [(file.filename or "file", await file.read()) for file in files]
    except MultiPartException as error:
        raise Bad(413 if "Too many" in error.message else 400, error.message) from None
    except Exception as error:  # starlette gives it as its own HTTP error within an app
        detail = str(getattr(error, "detail", error))
        raise Bad(413 if "Too many" in detail else 400, f"not a form: {detail[:200]}") from None


def _of_json(body: bytes) -> list[Picture]:
    try:
        said: Any = json.loads(body)
        images = said["images"] if "images" in said else [said["image"]]
        return [(f"image {place}", _decoded(one)) for place, one in enumerate(images, start=1)]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise Bad(400, 'not of the form {"images": [base64, ...]}') from None


def _decoded(text: str) -> bytes:
    """Base64, also as a browser gives it: ``data:image/png;base64,...``."""
    head, comma, rest = text.partition(",")
    return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
