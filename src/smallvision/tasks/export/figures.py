"""The figures of the run that a checkpoint is the best of."""

from dataclasses import dataclass
from pathlib import Path

from smallvision.core.errors import UserError
from smallvision.core.results import Results
from smallvision.training.predictor import Predictor


@dataclass(frozen=True)
class Accuracy:
    """``share`` of ``count`` images that were told right; ``part``: validation or test. ``count`` is None
    where only a part of them was looked at, and nothing says how many.
    """

    part: str
    share: float
    count: int | None


def figures(checkpoint: Path, trained: Predictor) -> list[Accuracy]:
    """Out of the results.json of its run directory; none where that tells of something else.

    It must be the best.ckpt of a run on the same images, and the epoch the same, where the run says one.
    """
    if checkpoint.name != "best.ckpt" or checkpoint.parent.name != "checkpoints":
        return []
    try:
        results = Results.read(checkpoint.parent.parent / "results.json")
    except UserError:
        return []
    same = (
        results.task == "fit"
        and results.data.fingerprint == trained.plain["data"]["fingerprint"]
        and results.best_epoch in (None, trained.epoch)
    )
    if not same:
        return []
    found = []
    cut = trained.plain["config"]["trainer"].get("limit_val_batches") is not None
    for part, key, count in (
        ("validation", "val/acc", results.data.val), ("test", "test/acc", results.tested)
    ):  # fmt: skip
        share = results.metrics[key]
        if share is not None and 0 <= share <= 1 and 0 < count < 2**31:
            found.append(Accuracy(part, share, None if cut and part == "validation" else count))
    return found
