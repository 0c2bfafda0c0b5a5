"""Loss and accuracy over an epoch, summed where the batches lie."""

from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric


class LossAndAccuracy(Metric):
    """The mean loss and the fraction of correct predictions over every image seen since the last reset.

    Sums stay on the device: nothing is pulled to the host before :meth:`compute`. Across processes the
    sums are added, so uneven parts weigh as they should.
    """

    full_state_update = False
    loss: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """``loss``: mean over the batch; ``logits``: N x classes; ``labels``: N."""
        count = len(labels)
        if count:
            # In place: to set a module's attribute takes longer than to add.
            self.loss.add_(loss.detach() * count)
            self.correct.add_((logits.detach().argmax(1) == labels).sum())
            self.count.add_(count)

    def compute(self) -> dict[str, Tensor]:
        """``loss`` and ``acc``, float64 on the CPU; nan before any image."""
        count = self.count.cpu().double()
        return {"loss": self.loss.cpu() / count, "acc": self.correct.cpu() / count}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._update_count = 1  # else torchmetrics warns that there is nothing to compute


def in_order(batches: list[Tensor], processes: int) -> Tensor:
    """The rows of all batches on the CPU, in the order of the images.

    Of several ``processes``, each has every so-many-th row of each batch; all of them must call this.
    """
    parts = [[batch.cpu() for batch in batches]]
    if processes > 1:
        parts = [[] for _ in range(processes)]
        distributed.all_gather_object(parts, [batch.cpu() for batch in batches])
    ordered = []
    for of_ranks in zip(*parts, strict=True):
        batch = of_ranks[0].new_empty((sum(map(len, of_ranks)), *of_ranks[0].shape[1:]))
        for rank, rows in enumerate(of_ranks):
            if len(rows):
                batch[rank::processes] = rows
        ordered.append(batch)
    return torch.cat(ordered) if ordered else torch.empty(0)
