"""The addresses that the server answers: a page to draw on, and ``POST /predict``."""

from collections.abc import Sequence
from importlib import resources
from threading import Lock
from urllib.parse import urlsplit

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smallvision.core.errors import printable
from smallvision.data.image_files import UnreadableImage, open_image
from smallvision.data.preprocess import LIGHT_ON_DARK, InputSpec, Preprocessed, preprocess
from smallvision.reports.formatting import data_uri, render
from smallvision.tasks.serve.uploads import LingeringClose, Upload, read_uploads
from smallvision.training.predictor import Predictor

PACKAGE = "smallvision.tasks.serve"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Answer = dict[str, object]  # as JSON


class PredictService:
    """A network that answers one request at a time: torch already uses every core.

    ``max_images`` and ``max_bytes``: of a request. ``description``: what the network is and what it was trained on.
    """

    def __init__(self, predictor: Predictor, spec: InputSpec, max_images: int, max_bytes: int) -> None:
        self.predictor, self.spec = predictor, spec
        self.max_images, self.max_bytes = max_images, max_bytes
        self._lock = Lock()
        self.classes = [printable(name) for name in predictor.spec.classes]
        dataset = predictor.checkpoint.dataset
        self.description: Answer = {
            "model": predictor.spec.model["name"],
            "classes": self.classes,
            "shape": list(predictor.spec.shape),
            "data": printable(dataset["name"]),
            "stand_in_for": dataset.get("stand_in_for"),
        }

    async def respond(self, request: Request) -> JSONResponse:
        """The answer to ``POST /predict``: the description, and one of ``predictions`` for each image.

        Raises HTTPException for a request of another site's page, which a browser marks with its origin.
        """
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "a page of another site may not ask")
        uploads = await read_uploads(request, self.max_images, self.max_bytes)
        predictions = await run_in_threadpool(self.predict, uploads)
        readable = any("class" in prediction for prediction in predictions)
        content = {**self.description, "predictions": predictions}
        return JSONResponse(content, 200 if readable else 422, headers=HEADERS)

    def predict(self, uploads: Sequence[Upload]) -> list[Answer]:
        """For each upload: ``file``; ``class``, ``probability`` and the ``probabilities`` of all classes in their
        order; ``polarity`` and ``resize``, how the image was prepared, and ``seen``, the result, as a data: address.
        Of a file that is no image: ``file`` and ``error``.
        """
        with self._lock:
            prepared = [self._prepare(upload) for upload in uploads]
            pixels = [image.pixels for image in prepared if isinstance(image, Preprocessed)]
            rows = iter(self.predictor.probabilities(torch.from_numpy(np.stack(pixels))).tolist() if pixels else ())
        predictions: list[Answer] = []
        for upload, image in zip(uploads, prepared, strict=True):
            found: Answer = {"error": image} if isinstance(image, str) else self._prediction(image, next(rows))
            predictions.append({"file": printable(upload.name), **found})
        return predictions

    def _prepare(self, upload: Upload) -> Preprocessed | str:
        """The image as the network takes it, or why it cannot be read."""
        try:
            with open_image(upload.content, upload.name) as image:
                return preprocess(image, self.spec)
        except UnreadableImage as error:
            return printable(error.reason)

    def _prediction(self, image: Preprocessed, probabilities: list[float]) -> Answer:
        probability = max(probabilities)
        return {
            "class": self.classes[probabilities.index(probability)],
            "probability": probability,
            "probabilities": probabilities,
            "polarity": image.polarity,
            "resize": image.resize,
            "seen": data_uri(image.pixels.transpose(1, 2, 0)),
        }


def make_app(service: PredictService, host: str) -> Starlette:
    """On a loopback ``host`` the app answers to that name alone: a page of another site that leads a browser here
    by a name of its own is refused.
    """
    page = render(
        "draw.html",
        package=PACKAGE,
        about=service.description,
        can_draw=service.spec.dataset in LIGHT_ON_DARK,
        max_images=service.max_images,
    )
    script = resources.files(PACKAGE).joinpath("templates/draw.js").read_text(encoding="utf-8")
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    return Starlette(
        routes=[
            Route("/", HTMLResponse(page, headers=HEADERS), methods=["GET"]),
            Route("/draw.js", Response(script, media_type="text/javascript", headers=HEADERS), methods=["GET"]),
            Route("/about", JSONResponse(service.description, headers=HEADERS), methods=["GET"]),
            Route("/health", JSONResponse({"status": "ok"}, headers=HEADERS), methods=["GET"]),
            Route("/predict", service.respond, methods=["POST"]),
        ],
        middleware=[
            Middleware(LingeringClose),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={HTTPException: error_response},
    )


async def error_response(request: Request, error: Exception) -> Response:
    """``{"error": "one line"}``."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers={**HEADERS, **(error.headers or {})})
