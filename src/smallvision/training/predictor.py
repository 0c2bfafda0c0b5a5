"""A trained network by itself: out of a checkpoint, without the data that it learnt from."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.training import device as devices
from smallvision.training.checkpoint import read
from smallvision.training.classifier import Classifier
from smallvision.training.factory import by, count_flops, make_network, make_whiten, refuse_larger
from smallvision.training.layers import TestTimeAugmentation


@dataclass
class Predictor:
    """What a checkpoint holds, ready to be asked.

    ``plain``: its "smallvision" part (config, shape, classes, mean, std, data); ``epoch``: epochs that it
    has seen.
    """

    model: Classifier
    device: devices.Device
    plain: dict[str, Any]
    epoch: int
    parameters: int

    @property
    def classes(self) -> list[str]:
        return list(self.plain["classes"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the images that it takes."""
        channels, height, width = self.plain["shape"]
        return channels, height, width

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of ``images`` (uint8, N x C x H x W) for each class: float32, N x classes, on the CPU.

        As in a test: the mean of the logits over the views that ``tta`` asks for, in the device's
        precision.
        """
        with self.computing():
            logits = self.model.views(self.model.normalise(images.to(self.model.device)), self.model.logits)
        return logits.float().softmax(1).cpu()

    def computing(self) -> AbstractContextManager[Any]:
        """In the precision of the device."""
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.device.precision)
        return torch.autocast(self.device.kind, half) if half else nullcontext()


def load(file: Path, config: Config) -> Predictor:
    """The model of ``file`` on the device that ``config`` chooses, in evaluation mode.

    Raises UserError where the file is no checkpoint, or its weights do not fit its own config.
    """
    saved = read(file)
    plain = saved["smallvision"]
    shape = (plain["shape"][0], plain["shape"][1], plain["shape"][2])
    if config["tta"]["shift"] >= min(shape[1:]):
        raise UserError(f"tta.shift={config['tta']['shift']}: must be below the images' side, of {by(shape)}")
    whiten = make_whiten(plain["config"], shape)
    seen = whiten.shape(shape) if whiten else shape
    make = partial(make_network, config, seen, len(plain["classes"]))
    refuse_larger(make, saved["state_dict"].values())
    network = make()
    whole = nn.Sequential(whiten, network) if whiten else network
    device = devices.choose(config["device"], count_flops(whole, shape))
    model = Classifier(
        network,
        plain["mean"],
        plain["std"],
        whiten=whiten,
        views=TestTimeAugmentation(**config["tta"]),
        channels_last=device.channels_last,
        plain=plain,
    )
    try:
        model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{file}: its weights do not fit its own config ({str(error).splitlines()[0]})") from None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Predictor(model.to(device.kind).eval(), device, plain, saved["epoch"] + 1, parameters)
