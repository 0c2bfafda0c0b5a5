"""Batch norm over the images of all processes, on any device: torch's own SyncBatchNorm needs GPUs."""

from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Has the parameters, the buffers and the settings of ``layer``. Images or features, N x C x ...; C is kept."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self._parameters, self._buffers, self.training = layer._parameters, layer._buffers, layer.training

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        out, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), momentum)
        return out  # type: ignore[no-any-return]

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class _Normalise(torch.autograd.Function):
    """Also gives the mean, the biased variance and the count, of all processes; each is over all but the channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        dims = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local_var, local_mean = (one.double() for one in torch.var_mean(wide, dims, correction=0))
        local_count = torch.full_like(local_mean, x.numel() / x.shape[1])
        sums = torch.stack([local_count, local_count * local_mean, local_count * (local_var + local_mean**2)])
        distributed.all_reduce(sums)
        count, mean = sums[0], sums[1] / sums[0]
        var = (sums[2] / count - mean**2).clamp(min=0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        out = F.batch_norm(x, mean.to(wide), var.to(wide), weight, bias, eps=eps)
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        kind = torch.promote_types(x.dtype, torch.float32)
        grad, centered = grad.to(kind), x - mean.to(kind).view(shape)
        local = torch.stack([grad.sum(dims), (grad * centered).sum(dims)]).double()
        sums = local.clone()
        distributed.all_reduce(sums)
        scale = inverse if weight is None else inverse * weight
        offset, slope = (one.to(grad).view(shape) for one in (sums[0] / count, sums[1] / count * inverse**2))
        grad_x = ((grad - offset - centered * slope) * scale.to(grad).view(shape)).to(x)
        if weight is None:
            return grad_x, None, None, None
        return grad_x, (local[1] * inverse).to(weight), local[0].to(weight), None


class SynchroniseBatchNorm(LayerSync):
    """Lightning's plugin that has the layers of a model synchronised while its Trainer is at work."""

    def __init__(self) -> None:
        self.replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm):
                    self.replaced.append((module, name, child))
                    setattr(module, name, SyncBatchNorm(child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module, name, child in self.replaced:
            setattr(module, name, child)
        self.replaced.clear()
        return model
