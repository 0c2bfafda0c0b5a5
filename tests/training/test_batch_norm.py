"""Batch norm over several processes gives each its part of what one process has."""

import multiprocessing
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smallvision.training.batch_norm import SyncBatchNorm, SynchroniseBatchNorm

SHAPES = ((7, 3, 4, 5), (7, 3))


def step(layer: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics after a step of training."""
    images = images.clone().requires_grad_()
    out = layer(images)
    (out * torch.linspace(-1, 1, out[0].numel(), dtype=out.dtype).view(out.shape[1:])).pow(2).sum().backward()
    assert images.grad is not None
    grads = {f"grad/{name}": one.grad for name, one in layer.named_parameters() if one.grad is not None}
    return {"out": out.detach(), "grad": images.grad, **grads, **dict(layer.named_buffers())}


def layer_for(shape: tuple[int, ...]) -> _BatchNorm:
    layer = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, momentum=0.4).double()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    return layer


def images_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 100


def part(rank: int, store: Path, answers: "Queue[tuple[int, list[dict[str, Tensor]]]]") -> None:
    """One of two processes: 4 of the 7 images, or 3."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = [step(SyncBatchNorm(layer_for(shape)), images_of(shape)[rank::2]) for shape in SHAPES]
    answers.put((rank, [{name: tensor.numpy() for name, tensor in one.items()} for one in found]))  # type: ignore[misc]
    distributed.barrier()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_outputs_gradients_and_statistics_are_those_of_all_images(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=part, args=(rank, tmp_path / "store", answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    parts = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    for number, shape in enumerate(SHAPES):
        expected = step(layer_for(shape), images_of(shape))
        for name, tensor in expected.items():
            found = [torch.from_numpy(parts[rank][number][name].copy()) for rank in (0, 1)]
            if name in ("out", "grad"):
                together = torch.empty_like(tensor)
                together[0::2], together[1::2] = found
            else:
                together = found[0] + found[1] if name.startswith("grad/") else found[0]
            torch.testing.assert_close(together, tensor, rtol=1e-9, atol=1e-9)


def test_layers_are_replaced_while_the_trainer_works_and_share_their_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)))
    before, synchronise = model[1][0], SynchroniseBatchNorm()
    names = list(model.state_dict())
    synchronise.apply(model)
    assert isinstance(model[1][0], SyncBatchNorm)
    assert model[1][0].weight is before.weight
    assert list(model.state_dict()) == names
    synchronise.revert(model)
    assert model[1][0] is before
