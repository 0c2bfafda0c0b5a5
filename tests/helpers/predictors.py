"""Predictors without any training."""

from pathlib import Path
from typing import Any

import torch

from helpers.configs import resolved
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.model_spec import ModelSpec
from smallvision.training.predictor import Predictor, Whiten

DATASET = {"name": "noise", "source": "made here", "fingerprint": "0123456789abcdef", "stand_in_for": None}


def predictor_of(
    shape: tuple[int, int, int], *typed: str, path: Path = Path("best.ckpt"), classes: list[str] | None = None
) -> Predictor:
    """As a checkpoint of ``python train.py typed`` gives it; the statistics of its batch norms are not initial ones."""
    config: dict[str, Any] = resolved("data=shapes", *typed).to_dict()
    channels = shape[0]
    spec = ModelSpec(
        model=config["model"],
        shape=shape,
        classes=classes or [f"class {number}" for number in range(10)],
        mean=[0.4] * channels,
        std=[0.3] * channels,
        whiten=config["data"]["normalisation"]["whiten"],
        tta=config["tta"],
    )
    torch.manual_seed(0)
    predictor = Predictor(spec, spec.make_network())
    images = torch.randint(0, 256, (64, *shape), dtype=torch.uint8)
    if isinstance(predictor.whiten, Whiten):
        predictor.whiten.init_whiten(predictor.normalise(images))
    predictor.train().logits(images)
    predictor.checkpoint = Checkpoint(path, spec, config, predictor.state_dict(), 3, 40, DATASET, None, {})
    return predictor.eval().requires_grad_(False)
