"""One optimizer from a config: its groups, Muon for kernels, and several that act as one."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from smallvision import models
from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.config.schema import PARAM_KINDS, ParamGroups, RestOptimizer
from smallvision.config.schema import Optimizer as OptimizerConfig
from smallvision.core.errors import UserError
from smallvision.training.device import Device
from smallvision.training.optimizers import CombinedOptimizer, ConvMuon, make_optimizer, split_params

CONFIG = resolve_config(compose([]), [])
MUON = Path(__file__).parents[2] / "configs/optimizer/muon.yaml"
REST = {
    "SGD": {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.85, "nesterov": True},
    "Adam": {"_target_": "torch.optim.Adam", "lr": 0.01},
}


def small() -> nn.Module:
    """Every kind of parameter, some of them frozen."""
    torch.manual_seed(0)
    return models.AirbenchNet(3, (8, 8), 5, widths=[4, 6])


def section(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name.lower(), "_target_": f"torch.optim.{name}", **arguments}


def muon(**arguments: Any) -> dict[str, Any]:
    return {**yaml.safe_load(MUON.read_text()), **arguments}


def typed(section: dict[str, Any]) -> OptimizerConfig:
    """The typed section, with values that the schema would refuse too: a rate of 0 keeps parameters as they are."""
    keys = ("name", "_target_", "lr", "rest")
    rest: dict[str, Any] | None = section.get("rest")
    return OptimizerConfig(
        section["name"],
        section["_target_"],
        section["lr"],
        None if rest is None else RestOptimizer(rest["_target_"], rest["lr"], _without(rest, keys)),
        extra=_without(section, keys),
    )


def _without(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def made(
    optimizer: dict[str, Any], network: nn.Module, device: Device | None = None, **own: dict[str, Any]
) -> Optimizer:
    """The optimizer of that section; ``own``: what of ``param_groups`` is not null."""
    groups = {kind: {"lr": None, "weight_decay": None, **own.get(kind, {})} for kind in PARAM_KINDS}
    config = replace(CONFIG, optimizer=typed(optimizer), param_groups=ParamGroups.from_dict(groups))
    return make_optimizer(config, network, device)


def ids(parameters: list[nn.Parameter]) -> list[int]:
    return sorted(map(id, parameters))


def learn(network: nn.Module, optimizer: Optimizer, steps: range) -> None:
    """Steps on batches that their number alone decides."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(6, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(images), torch.arange(6) % 5).backward()
        optimizer.step()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(network: nn.Module, optimizer: Optimizer) -> set[int]:
    """The parameters that one step moves."""
    before = weights(network)
    learn(network, optimizer, range(1))
    return {id(value) for name, value in network.named_parameters() if not torch.equal(value, before[name])}


# Kinds of parameters -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from([one for one in models.__all__ if not one.endswith("Network")]), data=st.data())
def test_every_parameter_that_learns_is_of_one_kind_and_no_other_of_any(name: str, data: st.DataObject) -> None:
    with torch.device("meta"):
        network = getattr(models, name)(3, (16, 16), 4)
    for parameter in network.parameters():
        parameter.requires_grad = parameter.requires_grad and data.draw(st.booleans())
    found = split_params(network)
    together = [parameter for parameters in found.values() for parameter in parameters]
    assert ids(together) == ids([one for one in network.parameters() if one.requires_grad])
    assert all(found.values())
    assert list(found) == [kind for kind in PARAM_KINDS if kind in found]


def test_a_parameter_is_of_the_kind_of_its_layer() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Linear(16, 6), nn.LayerNorm(6), nn.BatchNorm1d(6),
    )  # fmt: skip
    head = nn.Linear(6, 2)
    found = split_params(nn.Sequential(body, nn.Sequential(head, nn.BatchNorm1d(2))))
    assert ids(found["head"]) == ids([head.weight, head.bias])
    assert ids(found["weight"]) == ids([body[0].weight, body[2].weight, body[5].weight])
    assert ids(found["bias"]) == ids([body[0].bias, body[5].bias])
    norms = [one for one in body if isinstance(one, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)]
    assert set(map(id, found["norm"])) >= {id(value) for norm in norms for value in norm.parameters()}
    assert len(found["norm"]) == 2 * 5


def test_a_network_of_one_linear_layer_is_all_head() -> None:
    assert list(split_params(nn.Linear(3, 2))) == ["head"]


def test_a_network_without_a_linear_layer_has_no_head() -> None:
    assert list(split_params(nn.Conv2d(3, 2, 1))) == ["weight", "bias"]


# Groups --------------------------------------------------------------------------------------------------


def test_without_values_of_their_own_all_parameters_are_one_group_of_torchs_optimizer() -> None:
    network = small()
    optimizer = made(section("SGD", lr=0.5, momentum=0.25), network)
    assert type(optimizer) is SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.5, 0.25)
    assert ids(group["params"]) == ids([one for one in network.parameters() if one.requires_grad])


@pytest.mark.parametrize("kind", PARAM_KINDS)
def test_a_kind_has_its_own_values_and_the_other_kinds_the_optimizers(kind: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer = made(section("AdamW", lr=0.5, weight_decay=0.25), network, **{kind: {"lr": 0.125, "weight_decay": 0}})
    found = split_params(network)
    assert len(optimizer.param_groups) == len(found) == 4
    for group in optimizer.param_groups:
        mine = ids(group["params"]) == ids(found[kind])
        assert (group["lr"], group["weight_decay"]) == ((0.125, 0) if mine else (0.5, 0.25))
    assert sum(ids(group["params"]) == ids(found[kind]) for group in optimizer.param_groups) == 1


def test_a_rate_of_0_holds_its_kind_where_it_is() -> None:
    network = small()
    still = made(section("SGD", lr=0.5), network, weight={"lr": 0}, bias={"lr": 0}, norm={"lr": 0.0})
    assert moved(network, still) == {id(network.classifier.weight)}


def test_values_for_a_kind_that_the_network_lacks_change_nothing() -> None:
    own, plain = models.Linear(3, (8, 8), 5), models.Linear(3, (8, 8), 5)
    plain.load_state_dict(own.state_dict())
    learn(own, made(section("SGD", lr=0.5), own, norm={"lr": 7.0}), range(2))
    learn(plain, made(section("SGD", lr=0.5), plain), range(2))
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(own).items())


@pytest.mark.parametrize("under", ["alone", "beside Muon"])
def test_an_argument_that_the_optimizer_does_not_have_is_refused(under: str) -> None:
    without = section("Rprop", lr=0.1)
    chosen = without if under == "alone" else muon(rest=without)
    with pytest.raises(UserError, match=r"param_groups\.\*\.weight_decay: torch\.optim\.Rprop has no such"):
        made(chosen, small(), head={"weight_decay": 0.5})
    made(chosen, small(), head={"lr": 0.5})


def test_the_optimizer_and_muons_partner_use_the_fastest_kernel_of_the_device_where_none_is_chosen() -> None:
    device = Device("cpu", "32", True, 1, "a CPU")
    for chosen, fused in ((None, True), (False, False)):
        optimizer = made(section("SGD", lr=0.5, fused=chosen), small(), device)
        assert optimizer.param_groups[0]["fused"] is fused
        _, *others = made(muon(rest={**REST["SGD"], "fused": chosen}), small(), device).param_groups
        assert [group["fused"] for group in others] == [fused] * len(others)
    assert made(section("SGD", lr=0.5, fused=None), small()).param_groups[0]["fused"] is None


# Muon and its partner ------------------------------------------------------------------------------------


def test_muon_moves_the_hidden_weights_and_its_partner_the_others() -> None:
    network = small()
    hidden = {id(one) for one in split_params(network)["weight"]}
    silent = {**muon()["rest"], "lr": 0.0}
    assert moved(network, made(muon(rest=silent), network)) == hidden
    others = {id(one) for one in network.parameters() if one.requires_grad} - hidden
    assert moved(network, made(muon(lr=0.0), network)) == others


def test_muon_and_its_partner_take_the_kinds_own_values() -> None:
    optimizer = made(muon(), small(), weight={"lr": 0.5, "weight_decay": 0}, head={"lr": 0.25, "weight_decay": 0.125})
    found = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [(0.5, 0), (0.05, 0), (0.25, 0.125)]  # weights, batch norm, head


def test_a_network_of_hidden_weights_alone_needs_no_partner() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 3, bias=False))
    assert isinstance(made(muon(), network), ConvMuon)


def test_muon_for_a_network_without_hidden_weights_is_refused() -> None:
    with pytest.raises(UserError, match="optimizer=muon: updates hidden matrices, and this network has none"):
        made(muon(), models.Linear(1, (4, 4), 3))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (muon(ns_stepz=3), "ns_stepz: no such key"),
        (muon(adjust_lr_fn="nope"), "optimizer=muon: "),
        (muon(rest={**REST["SGD"], "betas": [0.5, 0.5]}), "betas: no such key"),
        (muon(rest={**REST["SGD"], "dampening": 0.5}), r"optimizer\.rest=torch\.optim\.SGD: "),
    ],
    ids=["muon's key", "muon's value", "the partner's key", "the partner's value"],
)
def test_what_muon_or_its_partner_cannot_be_is_refused(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(chosen, small())


def test_muon_learns_ten_images_by_heart() -> None:
    network, images, labels = small(), torch.randn(10, 3, 8, 8), torch.arange(10) % 5
    optimizer = made(muon(lr=0.02), network)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert torch.equal(network(images).argmax(1), labels)


# Muon for kernels ----------------------------------------------------------------------------------------


arguments = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.24, 0.01]),
        "momentum": st.sampled_from([0.0, 0.6, 0.95]),
        "nesterov": st.booleans(),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "ns_steps": st.integers(1, 5),
        "adjust_lr_fn": st.sampled_from([None, "match_rms_adamw"]),
    }
)
sides = st.integers(1, 5)


def muon_steps(muon: type[Muon], weight: Tensor, as_grad: Callable[[Tensor], Tensor], **chosen: Any) -> Tensor:
    """``weight`` after three steps along gradients that are drawn for its kernel."""
    parameter = nn.Parameter(weight.clone())
    optimizer = muon([{"params": [parameter]}], **chosen)
    for step in range(3):
        parameter.grad = as_grad(step)
        optimizer.step()
    return parameter.detach()


def drawn(step: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


@settings(deadline=None, max_examples=30)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), chosen=arguments)
def test_on_matrices_muon_is_torchs_own(shape: tuple[int, int], chosen: dict[str, Any]) -> None:
    start = drawn(9, shape)
    ours, theirs = (muon_steps(kind, start, lambda step: drawn(step, shape), **chosen) for kind in (ConvMuon, Muon))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(sides, sides, sides, sides), chosen=arguments, data=st.data())
def test_a_kernel_moves_as_torchs_muon_moves_its_matrix(
    shape: tuple[int, ...], chosen: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever lies together in memory is a row; the gradient may lie otherwise than the kernel."""
    layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])
    layout, of_grad = data.draw(layouts), data.draw(layouts)
    start = drawn(9, shape).contiguous(memory_format=layout)
    order = (0, 1, 2, 3) if start.is_contiguous() else (0, 2, 3, 1)

    def matrix(kernel: Tensor) -> Tensor:
        return kernel.permute(order).reshape(len(kernel), -1)

    theirs = muon_steps(Muon, matrix(start), lambda step: matrix(drawn(step, shape)), **chosen)
    ours = muon_steps(ConvMuon, start, lambda step: drawn(step, shape).contiguous(memory_format=of_grad), **chosen)
    assert torch.equal(matrix(ours), theirs)
    assert ours.is_contiguous(memory_format=layout)


@settings(deadline=None, max_examples=30)
@given(shape=st.tuples(st.integers(2, 16), st.integers(2, 16), st.just(3), st.just(3)))
def test_the_layout_of_a_kernel_does_not_change_its_steps(shape: tuple[int, ...]) -> None:
    """Beyond rounding: in another order the sums of the iteration, which runs in bf16, that is to 1/256,
    may round otherwise. A wrong order of pixels would be off by as much as the steps are long."""
    chosen = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.0, "ns_steps": 3}
    start = torch.zeros(shape)
    ends = [
        muon_steps(ConvMuon, start.contiguous(memory_format=layout), lambda step: drawn(step, shape), **chosen)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    assert (ends[0] - ends[1]).norm() < 0.01 * ends[0].norm()


def test_a_kernel_without_a_gradient_stays() -> None:
    kernels = [nn.Parameter(torch.ones(2, 2, 3, 3)) for _ in range(2)]
    kernels[0].grad = drawn(0, (2, 2, 3, 3))
    ConvMuon([{"params": kernels}], lr=0.1).step()
    assert not kernels[0].eq(1).all()
    assert kernels[1].eq(1).all()


# Several as one ------------------------------------------------------------------------------------------


def falling(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.8**step)


def through_a_file(state: Any) -> Any:
    """As a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("channels_last", [False, True])
def test_optimizers_continued_from_their_state_go_on_to_the_bit(rest: str, channels_last: bool) -> None:
    def begin(network: nn.Module) -> tuple[Optimizer, LambdaLR]:
        if channels_last:
            network.to(memory_format=torch.channels_last)
        optimizer = made(muon(rest=REST[rest]), network, head={"lr": 0.02})
        return optimizer, falling(optimizer)

    def go(network: nn.Module, optimizer: Optimizer, schedule: LambdaLR, steps: range) -> None:
        for step in steps:
            learn(network, optimizer, range(step, step + 1))
            schedule.step()

    whole = small()
    optimizer, schedule = begin(whole)
    go(whole, optimizer, schedule, range(3))
    state = through_a_file(
        {
            "network": whole.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
    )
    go(whole, optimizer, schedule, range(3, 6))

    continued = small()
    optimizer, schedule = begin(continued)
    learn(continued, optimizer, range(50, 52))  # a past of its own must not count
    continued.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    go(continued, optimizer, schedule, range(3, 6))
    ends = whole.state_dict(), continued.state_dict()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_a_schedule_moves_the_rates_of_all_parts() -> None:
    network = small()
    optimizer = made(muon(rest=REST["Adam"]), network, head={"lr": 0.02})
    schedule = falling(optimizer)
    learn(network, optimizer, range(1))
    schedule.step()
    assert isinstance(optimizer, CombinedOptimizer)
    rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
    assert rates == pytest.approx([0.24 * 0.8, 0.01 * 0.8, 0.02 * 0.8])


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_group_that_is_changed_changes_its_part(number: int, restored: bool) -> None:
    network = small()
    optimizer = made(muon(), network, head={"lr": 0.02})
    if restored:
        optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] *= group is optimizer.param_groups[number]
    assert moved(network, optimizer) == {id(one) for one in optimizer.param_groups[number]["params"]}


def test_the_parts_do_what_each_would_do_alone() -> None:
    one, other = small(), small()
    learn(one, made(muon(rest=REST["Adam"]), one), range(3))
    found, arguments = (
        split_params(other),
        {k: v for k, v in muon().items() if k not in ("name", "_target_", "rest")},
    )
    apart = (
        ConvMuon([{"params": found["weight"]}], **arguments),
        Adam([*found["norm"], *found["head"]], 0.01),
    )

    class Both:
        def zero_grad(self) -> None:
            other.zero_grad()

        def step(self) -> None:
            for part in apart:
                part.step()

    learn(other, Both(), range(3))  # type: ignore[arg-type]
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_closure_is_run_once_with_gradients_and_its_loss_given_back() -> None:
    network, calls = small(), []

    def closure() -> float:
        loss = network(torch.ones(4, 3, 8, 8) * torch.arange(4).view(4, 1, 1, 1)).square().sum()
        loss.backward()
        calls.append(loss.item())
        return loss.item()

    before = weights(network)
    loss = made(muon(), network).step(closure)
    assert [loss] == calls
    assert not torch.equal(network.classifier.weight, before["classifier.weight"])


def test_gradients_of_all_parts_are_cleared() -> None:
    network = small()
    optimizer = made(muon(), network)
    network(torch.rand(4, 3, 8, 8)).sum().backward()
    optimizer.zero_grad()
    assert [name for name, value in network.named_parameters() if value.grad is not None] == []
