"""What every exported file holds as metadata, as text, and the identity of the network in it."""

import hashlib
import json
from typing import Any

from smallvision.training.predictor import Predictor

VERSION = "1"  # of the metadata's format


def make_metadata(predictor: Predictor) -> dict[str, str]:
    """All values but the first three are JSON; ``config`` is the run's own, with the views of the export."""
    spec, checkpoint = predictor.spec, predictor.checkpoint
    return {
        "smallvision": VERSION,
        "input": "images: uint8, N x C x H x W, 0 to 255",
        "output": "probabilities: float32, N x classes",
        "shape": json.dumps(spec.shape),
        "classes": json.dumps(spec.classes),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "data": json.dumps(checkpoint.dataset),
        "config": json.dumps({**checkpoint.config, "tta": spec.tta}),
    }


def identity(predictor: Predictor, metadata: dict[str, str]) -> str:
    """Sixteen hex digits that depend on the weights and on all that the metadata say of the network."""
    model: dict[str, Any] = {**metadata, "config": [predictor.spec.model, predictor.spec.tta]}
    digest = hashlib.sha256(json.dumps(model).encode())
    for name, tensor in sorted(predictor.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
