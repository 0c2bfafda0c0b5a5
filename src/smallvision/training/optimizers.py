"""From a config to one optimizer: groups of parameters with rates of their own, and Muon with its partner."""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smallvision.config import schema
from smallvision.config.schema import PARAM_KINDS, Config
from smallvision.config.targets import instantiate
from smallvision.core.errors import UserError
from smallvision.models.pretrained import last_layer
from smallvision.training.device import Device

Groups = list[dict[str, object]]


def split_params(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by kind.

    ``head``: those of the last linear layer; ``norm``: of batch norm and its kin; ``bias``: the other
    vectors; ``weight``: the rest, of convolutions and linear layers.
    """
    found: dict[str, list[nn.Parameter]] = {kind: [] for kind in PARAM_KINDS}
    head = last_layer(network, nn.Linear)
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    seen: set[nn.Parameter] = set()  # tied ones have several places
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if module is head:
                kind = "head"
            elif isinstance(module, norms):
                kind = "norm"
            else:
                kind = "weight" if parameter.ndim > 1 else "bias"
            found[kind].append(parameter)
    return {kind: parameters for kind, parameters in found.items() if parameters}


def make_optimizer(config: Config, network: nn.Module, device: Device | None = None) -> Optimizer:
    """The optimizer of ``config.optimizer`` over the network's parameters.

    ``config.param_groups`` gives kinds of parameters arguments of their own. Muon is for hidden matrices only;
    ``optimizer.rest`` updates the others. ``device``: whose fastest kernel is used; None: torch's default.

    Raises UserError where a value is impossible.
    """
    section, rest = replace(config.optimizer, rest=None), config.optimizer.rest
    kinds = config.param_groups.to_dict()
    decay = kinds.pop("layer_decay")
    own = {kind: {name: one for name, one in chosen.items() if one is not None} for kind, chosen in kinds.items()}
    by_kind = {kind: {"params": found, **own[kind]} for kind, found in split_params(network).items()}
    if rest is None:
        groups = decayed(by_kind, network, section.lr, decay)
        if decay == 1 and not any(own.values()):
            groups = [{"params": [one for group in by_kind.values() for one in group["params"]]}]
        return _instantiate(section if device is None else device.with_kernel(section), groups)
    if section.target != "torch.optim.Muon":
        raise UserError(f"optimizer.rest: goes with optimizer=muon, not with {section.target}")
    if "weight" not in by_kind:
        raise UserError(f"optimizer={section.name}: updates hidden matrices, and this network has none")
    hidden = decayed({"weight": by_kind.pop("weight")}, network, section.lr, decay)
    matrices = ConvMuon(hidden, **_instantiate(section, [{"params": []}]).defaults)
    others = decayed(by_kind, network, rest.lr, decay)
    if not others:
        return matrices
    partner = _instantiate(rest if device is None else device.with_kernel(rest), others, key="optimizer.rest")
    if isinstance(partner, torch.optim.LBFGS):
        raise UserError("optimizer.rest._target_=torch.optim.LBFGS: goes alone; choose another")
    return CombinedOptimizer([matrices, partner])


def decayed(by_kind: dict[str, dict[str, Any]], network: nn.Module, lr: float, decay: float) -> Groups:
    """The groups, one a layer where ``decay`` is below 1: the last layer learns at its ``lr``, each before it at
    ``decay`` times that of the next. A layer: a convolution or linear layer, with the norms after it.

    Source: J. Howard and S. Ruder, Universal language model fine-tuning, ACL 2018, section 3.2.
    """
    if decay == 1:
        return list(by_kind.values())
    layer_of: dict[nn.Parameter, int] = {}
    number = -1
    for module in network.modules():
        parameters = [*module.parameters(recurse=False)]
        number += any(parameter.ndim > 1 for parameter in parameters)
        layer_of |= {parameter: number for parameter in parameters if parameter not in layer_of}
    groups: Groups = []
    for group in by_kind.values():
        layers: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            layers.setdefault(layer_of[parameter], []).append(parameter)
        for layer in sorted(layers, reverse=True):
            rate = group.get("lr", lr) * decay ** (number - layer)
            groups.append({**group, "params": layers[layer], "lr": rate})
    return groups


def _instantiate(section: schema.Optimizer | schema.RestOptimizer, groups: Groups, key: str = "optimizer") -> Optimizer:
    optimizer: Optimizer = instantiate("optimizer", section, groups, key=key)
    for group in groups:
        for name in group:
            if name != "params" and name not in optimizer.defaults:
                raise UserError(f"param_groups.*.{name}: {section.target} has no such argument")
    return optimizer


class ConvMuon(torch.optim.Muon):
    """torch's Muon, for convolutions too: a kernel counts as a matrix, output channels by all the rest.

    Source: K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon/
    """

    def __init__(self, groups: Groups, **defaults: Any) -> None:
        super().__init__([{"params": []}], **defaults)  # refuses kernels, so they come afterwards
        self.param_groups.clear()
        for group in groups:
            self.add_param_group(group)

    def _init_group(
        self,
        group: MutableMapping[str, list[Tensor]],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            layout = _layout(weight)
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["momentum_buffer"] = state["momentum_buffer"].contiguous(memory_format=layout)
            params_with_grad.append(_matrix(weight, layout))
            grads.append(_matrix(weight.grad.contiguous(memory_format=layout), layout))
            muon_momentum_bufs.append(_matrix(state["momentum_buffer"], layout))
        return False


def _layout(weight: Tensor) -> torch.memory_format:
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def _matrix(kernel: Tensor, layout: torch.memory_format) -> Tensor:
    """The same memory as a matrix: output channels by everything else, in whatever order that lies."""
    kernel = kernel.detach()
    if layout is torch.channels_last:
        kernel = kernel.permute(0, 2, 3, 1)
    return kernel.view(len(kernel), -1)


class CombinedOptimizer(Optimizer):
    """Several optimizers, each with its own parameters, that Lightning sees as one."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on this one's groups and state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def __getstate__(self) -> dict[str, object]:
        """torch's own leaves out what a subclass adds, which a deep copy needs."""
        return {**super().__getstate__(), "parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        super().load_state_dict(state_dict)
        self._share()
