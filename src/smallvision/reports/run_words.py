"""What a run's page says in words: how it ended, what to read its figures with, and how to go on."""

from pathlib import Path
from typing import Any

from smallvision.core.run_dir import command
from smallvision.reports.run_view import RunView
from smallvision.reports.statistics import wilson
from smallvision.reports.words import counted, duration, figure

SECTIONS = (
    "data", "model", "optimizer", "param_groups", "scheduler", "loss", "trainer", "early_stopping", "tta",
    "device", "logger", "checkpoint",
)  # fmt: skip


def title(view: RunView) -> str:
    """Data set, network and optimizer."""
    return f"{view.data['name']}, {view.model}, {view.optimizer}"


def lead(view: RunView) -> str:
    """What ran and how it ended, in a few sentences."""
    network = f"the network {view.model} ({view.parameters:,} parameters)"
    if view.task == "test":
        after = f" after {counted(view.epochs, 'epoch')} of training" if view.epochs else ", a bare state dict"
        return f"A test of {network}{after}."
    learnt = "learnt" if view.status == "completed" else "began to learn"
    began = f"{network[0].upper()}{network[1:]} {learnt} {view.data['train']:,} images"
    ends = {
        "completed": f"for {counted(view.epochs, 'epoch')}, to the end.",
        "interrupted": f"and was interrupted after {counted(view.steps, 'step')}.",
        "pruned": f"and its sweep ended it after {counted(view.epochs, 'epoch')}.",
        "failed": f"and failed after {counted(view.steps, 'step')}.",
    }
    said = f"{began} {ends.get(view.status, f'({view.status}).')}"
    if view.best_epoch and view.data["val"]:
        said += f" Validation chose epoch {view.best_epoch}"
        said += ", which was tested once." if view.tested else "."
    return said


def warnings(view: RunView) -> list[tuple[str, str]]:
    """What every figure on the page must be read with: a headline and a sentence each."""
    found = []
    named = view.data["stand_in_for"]
    if named:
        found.append(
            (f"Not {named}.", f"Its images were not there; every figure on this page comes from a stand-in"
             f" ({view.data['source']}) and says nothing about {named}.")
        )  # fmt: skip
    if view.data["remark"]:
        found.append(("About the data:", f"{view.data['remark']}."))
    if 0 < view.tested < view.data["test"]:
        found.append(
            (
                "Partial test.",
                f"Only {view.tested:,} of the {view.data['test']:,} test images were looked at.",
            )
        )
    if view.unsaved:
        found.append(("Not all could be saved:", f"{counted(len(view.unsaved), 'time')}, last {view.unsaved[-1]}."))
    return found


def test_figures(view: RunView) -> dict[str, Any] | None:
    """The test accuracy and its interval."""
    accuracy = view.metrics["test/acc"]
    if accuracy is None or not 0 <= accuracy <= 1 or not view.tested:
        return None
    low, high = wilson(round(accuracy * view.tested), view.tested)
    return {"acc": accuracy, "loss": view.metrics["test/loss"], "low": low, "high": high, "n": view.tested}


def val_figures(view: RunView) -> dict[str, Any] | None:
    """The validation accuracy of the chosen epoch and its interval."""
    accuracy, count = view.metrics["val/acc"], view.data["val"]
    if accuracy is None or not 0 <= accuracy <= 1 or not count:
        return None
    low, high = wilson(round(accuracy * count), count)
    return {"acc": accuracy, "loss": view.metrics["val/loss"], "low": low, "high": high, "n": count}


def spent(view: RunView) -> list[tuple[str, str]]:
    """Where the time went, in words."""
    sums = {part: sum(epoch[part] for epoch in view.epoch_seconds) for part in ("train", "val", "rest")}
    found = [
        ("training steps", sums["train"]),
        ("validation", sums["val"]),
        ("checkpoints and the rest", sums["rest"]),
    ]
    found = found if view.epoch_seconds else []
    found += [("test", view.seconds["test"] or 0.0), ("in all, with loading", view.seconds["total"] or 0.0)]
    return [(words, duration(seconds)) for words, seconds in found if seconds]


def commands(view: RunView) -> list[tuple[str, str]]:
    """What can be done next, and its command line."""
    run = str(view.directory)
    best = view.checkpoint or ""
    inside = (view.directory / best).is_file() and not Path(best).is_absolute()
    checkpoint = str(view.directory / best) if inside and view.task == "fit" else best
    found = []
    if view.task == "fit":
        if view.status in ("interrupted", "failed"):
            found.append(("Go on from where it ended", command(f"resume={run}")))
        found.append(("Run it again from the start", command(*view.typed)))
        if view.status == "completed":
            more = 2 * view.epochs
            found.append(("Train it further", command(f"resume={run}", f"trainer.max_epochs={more}")))
    if checkpoint:
        found += [
            ("Test it again", command("task=test", f"checkpoint={checkpoint}")),
            ("Ask it about pictures", command("task=predict", f"checkpoint={checkpoint}", "images=FILES")),
            ("Take it elsewhere", command("task=export", f"checkpoint={checkpoint}", "format=onnx")),
        ]
    return found


def sections(view: RunView) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """The configuration, section by section: key, value, and whether it was typed."""
    typed = {one.lstrip("+").partition("=")[0].replace("/", ".") for one in view.typed}
    plain = [(key, _shown(value), key in typed) for key, value in view.config.items() if not isinstance(value, dict)]
    found = [("", plain)]
    for name in SECTIONS:
        if isinstance(view.config.get(name), dict):
            entries = _flat(view.config[name], f"{name}.")
            found.append((name, [(key, _shown(value), key in typed) for key, value in entries]))
    return [(name, entries) for name, entries in found if entries]


def _flat(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        whole = f"{prefix}{key}"
        flat += _flat(value, f"{whole}.") if isinstance(value, dict) and value else [(whole, value)]
    return flat


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return figure(value) if isinstance(value, float) and abs(value) > 1e4 else str(value)
