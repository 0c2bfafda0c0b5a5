"""What a network says of pictures that came in as bytes."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from smallvision.core.errors import printable
from smallvision.data.image_files import UnreadableImage, open_image
from smallvision.data.preprocess import InputSpec, Preprocessed, preprocess
from smallvision.reports.pixels import png
from smallvision.training.predictor import Predictor


class Answers:
    """One network, asked by one request at a time: torch already uses every core."""

    def __init__(self, trained: Predictor, spec: InputSpec) -> None:
        self.trained, self.spec = trained, spec
        self._alone = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the network is and what it learnt from."""
        plain = self.trained.plain
        return {
            "model": plain["config"]["model"]["name"],
            "classes": [printable(name) for name in self.trained.classes],
            "shape": list(self.trained.shape),
            "data": printable(str(plain["data"]["name"])),
            "stand_in_for": plain["data"].get("stand_in_for"),
        }

    def of(self, pictures: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
        """``pictures``: names and contents. Gives what :meth:`about` says, and for each of ``predictions``:
        ``file``; ``class``, ``probability`` and the ``probabilities`` of all classes in their order;
        ``polarity`` and ``resize``, how it was brought to the network, and ``seen``, what this saw, as a data:
        address; or ``error``.
        """
        with self._alone:
            framed = [self._framed(name, content) for name, content in pictures]
            good = [one.pixels for one in framed if isinstance(one, Preprocessed)]
            shares = iter(())
            if good:
                shares = iter(self.trained.probabilities(torch.from_numpy(np.stack(good))).tolist())
        return {
            **self.about(),
            "predictions": [
                {
                    "file": printable(name),
                    **(self._said(one, next(shares)) if isinstance(one, Preprocessed) else one),
                }
                for (name, _), one in zip(pictures, framed, strict=True)
            ],
        }

    def _framed(self, name: str, content: bytes) -> Preprocessed | dict[str, str]:
        try:
            with open_image(content, name) as image:
                return preprocess(image, self.spec)
        except UnreadableImage as unreadable:
            return {"error": printable(unreadable.reason)}

    def _said(self, framed: Preprocessed, shares: list[float]) -> dict[str, Any]:
        best = max(range(len(shares)), key=shares.__getitem__)
        return {
            "class": printable(self.trained.classes[best]),
            "probability": shares[best],
            "probabilities": shares,
            "polarity": framed.polarity,
            "resize": framed.resize,
            "seen": png(framed.pixels.transpose(1, 2, 0)),
        }
