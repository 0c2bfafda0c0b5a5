"""The predictions that ``POST /predict`` gives."""

from collections.abc import Sequence
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from smallvision.core.errors import printable
from smallvision.data.image_files import UnreadableImage, open_image
from smallvision.data.preprocess import InputSpec, Preprocessed, preprocess
from smallvision.reports.pages import data_uri
from smallvision.tasks.serve.uploads import Upload, read_uploads
from smallvision.training.predictor import Predictor

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PredictService:
    """A network that answers one request at a time: torch already uses every core.

    ``max_images`` and ``max_bytes``: of a request. ``description``: what the network is and what it was trained on.
    """

    def __init__(self, predictor: Predictor, spec: InputSpec, max_images: int, max_bytes: int) -> None:
        self.predictor, self.spec = predictor, spec
        self.max_images, self.max_bytes = max_images, max_bytes
        self._lock = Lock()
        self.classes = [printable(name) for name in predictor.spec.classes]
        checkpoint = predictor.checkpoint
        self.description: dict[str, Any] = {
            "model": predictor.spec.model["name"],
            "classes": self.classes,
            "shape": list(predictor.spec.shape),
            "data": printable(checkpoint.dataset["name"]),
            "stand_in_for": checkpoint.dataset.get("stand_in_for"),
        }

    async def respond(self, request: Request) -> JSONResponse:
        """The answer to ``POST /predict``. Raises HTTPException for a request of another site's page, which a
        browser marks with its origin.
        """
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "a page of another site may not ask")
        uploads = await read_uploads(request, self.max_images, self.max_bytes)
        answer = await run_in_threadpool(self.predict, uploads)
        readable = any("class" in prediction for prediction in answer["predictions"])
        return JSONResponse(answer, 200 if readable else 422, headers=HEADERS)

    def predict(self, uploads: Sequence[Upload]) -> dict[str, Any]:
        """The description, and for each upload one of ``predictions``: ``file``; ``class``, ``probability`` and
        the ``probabilities`` of all classes in their order; ``polarity`` and ``resize``, how the image was
        prepared, and ``seen``, the result, as a data: address. Of a file that is no image, ``file`` and ``error``.
        """
        with self._lock:
            prepared = [self._prepare(upload) for upload in uploads]
            pixels = [image.pixels for image in prepared if isinstance(image, Preprocessed)]
            rows = iter(self.predictor.probabilities(torch.from_numpy(np.stack(pixels))).tolist() if pixels else ())
        predictions = [
            {"file": printable(upload.name)}
            | (self._prediction(image, next(rows)) if isinstance(image, Preprocessed) else {"error": image})
            for upload, image in zip(uploads, prepared, strict=True)
        ]
        return {**self.description, "predictions": predictions}

    def _prepare(self, upload: Upload) -> Preprocessed | str:
        """The image as the network takes it, or why it cannot be read."""
        try:
            with open_image(upload.content, upload.name) as image:
                return preprocess(image, self.spec)
        except UnreadableImage as error:
            return printable(error.reason)

    def _prediction(self, image: Preprocessed, probabilities: list[float]) -> dict[str, Any]:
        probability = max(probabilities)
        return {
            "class": self.classes[probabilities.index(probability)],
            "probability": probability,
            "probabilities": probabilities,
            "polarity": image.polarity,
            "resize": image.resize,
            "seen": data_uri(image.pixels.transpose(1, 2, 0)),
        }
