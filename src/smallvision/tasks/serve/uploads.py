"""The images in a request, within limits."""

import base64
import binascii
import json
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request


class Upload(NamedTuple):
    name: str
    content: bytes


async def read_uploads(request: Request, max_images: int, max_bytes: int) -> list[Upload]:
    """The files of a form, the images of ``{"images": [base64, ...]}``, or the body itself.

    Raises HTTPException: 400 where there is no image, 413 where there are more than ``max_images``, or more than
    ``max_bytes`` in all.
    """
    body = await _read_body(request, max_bytes)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _from_form(request, max_images)
    elif media_type == "application/json":
        uploads = _from_json(body)
    else:
        uploads = [Upload("body", body)] if body else []
    if not uploads:
        raise HTTPException(400, 'no image: send its bytes, a form with files, or {"images": [base64, ...]}')
    if len(uploads) > max_images:
        raise HTTPException(413, f"{len(uploads)} images; at most {max_images} are allowed in a request")
    return uploads


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body, which is not read further than ``max_bytes``."""
    too_large = HTTPException(413, f"more than {max_bytes / 1e6:g} MB")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > max_bytes:
            raise too_large
        parts.append(part)
    request._body = b"".join(parts)  # where Starlette keeps it; its parser of forms reads it there
    return request._body


async def _from_form(request: Request, max_images: int) -> list[Upload]:
    try:
        async with request.form(max_files=max_images, max_fields=max_images) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [Upload(file.filename or "file", await file.read()) for file in files]
    except Exception as error:  # of Starlette and of the parser beneath it
        detail = str(getattr(error, "detail", error))
        raise HTTPException(413 if "Too many" in detail else 400, f"not a form: {detail[:200]}") from None


def _from_json(body: bytes) -> list[Upload]:
    try:
        content = json.loads(body)
        images = content["images"] if "images" in content else [content["image"]]
        return [Upload(f"image {number}", _decode(image)) for number, image in enumerate(images, start=1)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise HTTPException(400, 'not of the form {"images": [base64, ...]}') from None


def _decode(text: str) -> bytes:
    """Base64, also as a browser has it: ``data:image/png;base64,...``."""
    head, comma, rest = text.partition(",")
    return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
