"""Which pixels an answer hangs on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.core.rng import stream
from smallvision.training.predictor import Predictor

COPIES = 25  # noisy ones of each image
NOISE = 0.15  # its standard deviation, of the span of the image's values
BRIGHT = 99.0  # the percentile that is shown as 1: a few pixels would darken all the others


def saliency(trained: Predictor, image: Tensor, label: int, seed: int, number: int) -> np.ndarray[Any, Any]:
    """How much each pixel of ``image`` (uint8, C x H x W) moves the logit of class ``label``: float32, H x W,
    from 0 to 1.

    The gradient's magnitude, the largest of the channels (K. Simonyan et al., arXiv:1312.6034), averaged
    over noisy copies (SmoothGrad, D. Smilkov et al., arXiv:1706.03825). The noise is keyed by ``seed`` and
    ``number``, the picture's place, so the same picture comes out again. In float32 on any device.
    """
    model = trained.model
    floats = image.float()
    noise = torch.randn((COPIES, *image.shape), generator=stream(seed, "saliency", number))
    copies = (floats + noise * (NOISE * (floats.max() - floats.min()))).to(model.device).requires_grad_()
    with torch.enable_grad():
        logits = model.views(model.normalise(copies), model.logits)
        (gradients,) = torch.autograd.grad(logits[:, label].sum(), copies)
    heat = gradients.abs().amax(1).mean(0).float().cpu().numpy()
    most = float(np.percentile(heat, BRIGHT)) or float(heat.max()) or 1.0
    return (heat / most).clip(0, 1)
