"""Networks of torchvision and timm, whose inputs become what their weights expect and whose head is new.

Building one reads no file and downloads nothing, whatever ``weights`` says: a checkpoint's config rebuilds it. What
``weights`` names is fetched by :meth:`PretrainedNetwork.published`, or read by the caller.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD, SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224  # of most networks' ImageNet images
L = TypeVar("L", bound=nn.Module)
AUXILIARY = ("aux", "AuxLogits")  # second heads of GoogLeNet and Inception, which are not built


@dataclass(frozen=True)
class Published:
    """Weights that a library publishes. ``mean`` and ``std``: as fractions of 255; ``size``: height, width."""

    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    size: tuple[int, int] = (SIDE, SIDE)
    source: str = "unknown"
    licence: str | None = None


def is_file(weights: str) -> bool:
    """Whether ``model.weights`` names a file, and not weights that a library publishes."""
    return not weights.isidentifier()


def last_layer(network: nn.Module, kind: type[L]) -> L | None:
    """The last layer of that kind."""
    return next((layer for layer in reversed([*network.modules()]) if isinstance(layer, kind)), None)


class PretrainedNetwork(nn.Module):
    """Any classification network of a library.

    N x C x H x W, C 1 or 3, normalised by ``data_mean`` and ``data_std``, to N x classes. ``weights``: the name or
    file of those that training starts from; with them inputs get the normalisation and the size that the library's
    weights of that ``architecture`` expect, or the side ``image_size``. Without, they stay as they are.
    ``freeze="backbone"``: only the head learns, and batch norm keeps its statistics.
    """

    library: str
    mean: Tensor  # that the weights expect, as fractions of 255; in the state dict, so that it stays with them
    std: Tensor
    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        data_mean: Sequence[float],
        data_std: Sequence[float],
        architecture: str,
        weights: str | None = None,
        image_size: int | None = None,
        freeze: str | None = None,
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"takes images of 1 or 3 channels, not {channels}")
        if not architecture.isidentifier():  # timm's can name a folder or a place to download from
            raise ValueError(f"model.architecture={architecture}: must be a name")
        self.architecture, self.weights, self.image_size = architecture, weights, image_size
        expected = Published(data_mean, data_std, size) if weights is None else self.describe()
        self.size = expected.size if image_size is None else (image_size, image_size)
        self.antialias = self.size[0] < size[0]
        try:
            self.network = self.build(classes)
        except AssertionError as error:  # transformers about the size
            raise ValueError(f"{error}; type model.image_size={SIDE}") from None
        for name, value in (("mean", expected.mean), ("std", expected.std)):
            self.register_buffer(name, torch.tensor(value).expand(3).clone().view(3, 1, 1))
        for name, value in (("data_mean", data_mean), ("data_std", data_std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)
        head = last_layer(self.network, nn.Linear) or last_layer(self.network, nn.Conv2d)
        self.head = next(name for name, layer in self.network.named_modules() if layer is head)
        self.frozen = freeze == "backbone"
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not self.frozen or name.startswith(f"{self.head}."))

    @property
    def origin(self) -> str:
        """Where the weights that training started from are from, and their licence."""
        assert self.weights is not None
        if is_file(self.weights):
            return f"the file {self.weights}"
        found = self.describe()
        return f"{self.weights} of {self.library}, {found.source}; licence: {found.licence or 'not stated there'}"

    def build(self, classes: int) -> nn.Module:
        """The library's network, with initial weights. Raises ValueError where there is no such network."""
        raise NotImplementedError

    def describe(self) -> Published:
        """The chosen weights; of a file, those that the library publishes for the architecture."""
        raise NotImplementedError

    def download(self) -> Mapping[str, Tensor]:
        """The chosen weights, checked by their checksum. Raises OSError or RuntimeError where that fails."""
        raise NotImplementedError

    def published(self) -> Mapping[str, Tensor]:
        """As :meth:`download`. Raises ValueError, in one line, where it fails."""
        try:
            return self.download()
        except Exception as error:  # of the network, the disk, the checksum, in the libraries' own kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"cannot be downloaded ({reason}); type a file, model.weights=FILE, or model.weights=null"
            ) from None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take all but the head from ``weights``: the library's network, or one such as this with its ``mean``.

        Raises ValueError where they are another network's.
        """
        own = "network." if "mean" in weights else ""
        found = {name.removeprefix(own): value for name, value in weights.items() if not own or name.startswith(own)}
        found = {name: one for name, one in found.items() if not name.startswith((f"{self.head}.", *AUXILIARY))}
        wanted = self.network.state_dict()
        for name, value in wanted.items():
            if name.startswith(f"{self.head}.") or (name not in found and name.endswith("num_batches_tracked")):
                continue
            shape = tuple(found[name].shape) if name in found else None
            if shape != tuple(value.shape):
                raise ValueError(f"another network's: its {name} is {shape or 'missing'}, must be {tuple(value.shape)}")
        if more := found.keys() - wanted:
            raise ValueError(f"another network's: {self.architecture} has no {min(more)}")
        self.network.load_state_dict(found, strict=False)
        if own:
            self.mean.copy_(weights["mean"].view(-1, 1, 1))
            self.std.copy_(weights["std"].view(-1, 1, 1))

    def train(self, mode: bool = True) -> "PretrainedNetwork":
        super().train(mode)
        if mode and self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        scale, offset = self.data_std / self.std, (self.data_mean - self.mean) / self.std
        images = torch.addcmul(offset, images, scale)  # grey becomes three channels
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=self.antialias)
        return self.network(images)


class TorchvisionNetwork(PretrainedNetwork):
    """Of torchvision. Source: https://docs.pytorch.org/vision/stable/models.html."""

    library = "torchvision (BSD-3-Clause)"

    def build(self, classes: int) -> nn.Module:
        from torchvision import models

        if self.architecture not in models.list_models(module=models):
            raise ValueError(f"no architecture {self.architecture} for classification in torchvision")
        arguments: dict[str, Any] = {}
        if self.architecture in ("googlenet", "inception_v3"):
            arguments = {"aux_logits": False, "init_weights": True, "transform_input": self.weights is not None}
        elif self.architecture.startswith("vit_"):
            arguments = {"image_size": self.size[0]}
        # The widths of RegNets are computed with tensors, which the meta device cannot.
        where = torch.device("cpu") if self.architecture.startswith("regnet") else contextlib.nullcontext()
        with where:
            return models.get_model(self.architecture, weights=None, num_classes=classes, **arguments)

    def describe(self) -> Published:
        chosen = self._choose()
        preset = chosen.transforms()
        (side,) = preset.crop_size
        return Published(preset.mean, preset.std, (side, side), chosen.url, chosen.meta.get("license"))

    def download(self) -> Mapping[str, Tensor]:
        return self._choose().get_state_dict(progress=False, check_hash=True, weights_only=True)

    def _choose(self) -> Any:
        from torchvision.models import get_model_weights, list_models

        assert self.weights is not None
        name = "DEFAULT" if is_file(self.weights) else self.weights
        known = get_model_weights(self.architecture) if self.architecture in list_models() else {}
        try:
            return known[name]
        except KeyError:
            names = ", ".join(one.name for one in known) or "none"
            raise ValueError(f"torchvision has no weights {name} of {self.architecture}; it has {names}") from None


class TimmNetwork(PretrainedNetwork):
    """Of timm, an optional package. Source: https://huggingface.co/docs/timm."""

    library = "timm (Apache-2.0)"

    def build(self, classes: int) -> nn.Module:
        import timm

        if not timm.is_model(self.architecture):
            raise ValueError(f"no architecture {self.architecture} in timm")
        return timm.create_model(self.architecture, pretrained=False, num_classes=classes)

    def describe(self) -> Published:
        from timm.models import get_pretrained_cfg

        found = get_pretrained_cfg(self._name())
        if found is None:
            raise ValueError(f"timm has no weights {self.weights} of {self.architecture}")
        source = found.url or f"https://huggingface.co/{found.hf_hub_id}"
        return Published(found.mean, found.std, tuple(found.input_size[1:]), source, found.license)

    def download(self) -> Mapping[str, Tensor]:
        import timm
        from timm.models import set_pretrained_check_hash

        set_pretrained_check_hash(True)
        return timm.create_model(self._name(), pretrained=True).state_dict()

    def _name(self) -> str:
        assert self.weights is not None
        is_default = is_file(self.weights) or self.weights == "DEFAULT"
        return self.architecture if is_default else f"{self.architecture}.{self.weights}"
