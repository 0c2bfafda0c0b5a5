"""Whether two runs came to the same end."""

from pathlib import Path

import torch

from helpers.command import figures


def equal(one: object, other: object) -> bool:
    """Whether two trees of plain data are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_end(one: Path, other: Path) -> bool:
    checkpoints = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other)]
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return all(equal(checkpoints[0][part], checkpoints[1][part]) for part in parts)


def same_files(one: Path, other: Path) -> bool:
    """Whether metrics.csv, steps.npy and, times aside, results.json are equal, too."""
    rows = [[(run / name).read_bytes() for name in ("metrics.csv", "steps.npy")] for run in (one, other)]
    return rows[0] == rows[1] and figures(one) == figures(other)
