"""model_card.md: what the network is, what it learnt from, how good it is, and what nobody knows of it."""

from pathlib import Path
from typing import Any

from smallvision.core.run_dir import command
from smallvision.reports.statistics import wilson
from smallvision.tasks.export import usage
from smallvision.tasks.export.compared import LIMIT
from smallvision.tasks.export.figures import Accuracy
from smallvision.tasks.export.markdown import block, plain, table
from smallvision.tasks.export.module import Standalone
from smallvision.tasks.export.record import Export
from smallvision.training.factory import by
from smallvision.training.predictor import Predictor

FILE = "model_card.md"
MOST_CLASSES = 100  # of which the card gives the names


def card(
    trained: Predictor,
    module: Standalone,
    own: dict[str, Any],
    accuracies: list[Accuracy],
    exports: list[Export],
    others: list[str],
    checkpoint: Path,
) -> str:
    """The whole page. ``own``: the network's own config; ``others``: files of exports that lie there and are
    made of something else.
    """
    data = trained.plain["data"]
    sections = [
        f"# {plain(own['model']['name'])}, trained on {plain(data['name'])}",
        *_stand_in(data),
        f"A network that tells small images of {len(module.classes):,} classes apart:"
        f" {trained.parameter_count:,} parameters, {plain(own['model']['_target_'].rpartition('.')[2])} of"
        " smallvision. Exported out of its checkpoint after"
        f" {trained.epoch:,} epoch{'s' * (trained.epoch != 1)}.",
        "## In and out",
        _in_and_out(module),
        "## What it learnt from",
        _learnt_from(data),
        "## How good it is",
        _figures(accuracies, trained, own),
        "## How it was trained",
        _training(own, trained),
        "## What it cannot do",
        _limits(data, module, accuracies),
        "## Files",
        _files(exports, others),
    ]
    for export in exports:
        code = usage.lines(export.format, module.shape)
        sections += [f"### {export.file}", usage.NEEDS[export.format], block(code, "python")]
    again = command("task=export", f"checkpoint={checkpoint}", f"format={exports[0].format}")
    sections += ["## Where this page comes from", "Written by", block(again, "sh")]
    return "\n\n".join(sections) + "\n"


def _stand_in(data: dict[str, Any]) -> list[str]:
    name = data.get("stand_in_for")
    if name is None:
        return []
    return [
        f"> **STAND-IN: this network never saw {plain(name)}.** It learnt from other images of the same size,"
        f" and no figure on this page says anything about {plain(name)}."
    ]


def _in_and_out(module: Standalone) -> str:
    channels, height, width = module.shape
    colours = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} channels")
    views = len(module.views)
    seen = f" Each image is looked at in {views} views (mirrored, moved), which takes {views} times as long."
    rows = [
        ["images", f"uint8, N x {channels} x {height} x {width}", f"0 to 255; {colours}; any N from 1 on"],
        ["probabilities", f"float32, N x {len(module.classes)}", "each row adds up to 1"],
    ]
    shown = module.classes[:MOST_CLASSES]
    names = table(["number", "class"], [[str(number), plain(name)] for number, name in enumerate(shown)])
    more = len(module.classes) - len(shown)
    parts = [
        table(["name", "shape", "values"], rows),
        f"Normalisation and softmax are inside.{seen if views > 1 else ''}",
        "The classes, in the order of the probabilities:",
        names,
    ]
    return "\n\n".join([*parts, f"and {more:,} more, which each file names in its metadata."] if more else parts)


def _learnt_from(data: dict[str, Any]) -> str:
    lines = [
        f"- data: {plain(data['name'])}",
        f"- source: {plain(data['source'])}",
        f"- fingerprint: {plain(data['fingerprint'])} (of every pixel, label and class name)",
    ]
    if isinstance(data.get("remark"), str):
        lines.append(f"- remark: {plain(data['remark'])}")
    return "\n".join(lines)


def _figures(accuracies: list[Accuracy], trained: Predictor, own: dict[str, Any]) -> str:
    if not accuracies:
        return (
            "Nobody has written that down beside this checkpoint: it is not the best.ckpt of a run directory"
            " with its results.json."
        )
    rows = []
    for one in accuracies:
        low, high = wilson(round(one.share * one.count), one.count) if one.count else (0.0, 1.0)
        interval = f"{low:.4f} to {high:.4f}" if one.count else "-"
        count = f"{one.count:,}" if one.count else "a part of them"
        rows.append([one.part, f"{one.share:.4f}", interval, count])
    notes = ["As its run measured them, in the precision that it was trained in."]
    if any(one.part == "validation" for one in accuracies):
        notes.append("The validation images chose the epoch, so their figure is a little too good.")
    if own["tta"] != {**own["tta"], **trained.plain["config"].get("tta", {})}:
        notes.append("They are those of other views (`tta`) than this export has.")
    return "\n\n".join([table(["images", "accuracy", "95 % interval (Wilson)", "n"], rows), " ".join(notes)])


def _training(own: dict[str, Any], trained: Predictor) -> str:
    optimizer, scheduler, data = own["optimizer"], own["scheduler"], own["data"]
    rest = optimizer.get("rest")
    words = f"{plain(optimizer['name'])}, lr {plain(optimizer['lr'])}"
    if isinstance(rest, dict):
        words += f"; the rest by {plain(str(rest.get('_target_')).rpartition('.')[2])}, lr {plain(rest.get('lr'))}"
    changes = [f"{name} {plain(value)}" for name, value in data["augmentation"].items() if value]
    lines = {
        "optimizer": words,
        "schedule": plain(scheduler["name"]),
        "batches of": f"{data['batch_size']:,}",
        "epochs": f"{trained.epoch:,} seen, of {own['trainer']['max_epochs']:,}",
        "seed": f"{own['seed']}",
        "augmentation": ", ".join(changes) or "none",
        "label smoothing": f"{own['loss']['label_smoothing']:g}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def _limits(data: dict[str, Any], module: Standalone, accuracies: list[Accuracy]) -> str:
    name = plain(data["name"])
    tried = any(one.part == "test" for one in accuracies)
    lines = [
        f"It was tried on the test images of {name} alone." if tried else "It was not tried on any test images.",
        "Other cameras, scanners, hands, framings, lights, noise, and images made to deceive it: not tried.",
        f"It knows these {len(module.classes):,} classes and no others. For any image whatever it names one"
        " of them; it cannot say that it sees none.",
        f"Images must be {by(module.shape)} and prepared like those it learnt from (size, framing, which of"
        " figure and ground is bright).",
        "The probabilities are not calibrated: 0.9 does not mean right nine times out of ten.",
        "Whether it does worse on some group of images or people than on others: not looked at.",
        "Where a mistake harms somebody, test it on your own images first.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _files(exports: list[Export], others: list[str]) -> str:
    rows = [
        [
            f"`{one.file}`", f"{one.bytes:,} bytes", plain(one.runtime), f"{one.difference:.2g}",
            f"{one.agreed:,} of {one.images:,}", plain(one.compared_on),
        ]
        for one in exports
    ]  # fmt: skip
    head = ["file", "size", "checked in", "largest difference", "same class", "on"]
    parts = [
        table(head, rows),
        "Each was opened in its own runtime right after it was written and compared with the network itself"
        f" (eager float32, on a CPU); a file whose probabilities differ by more than {LIMIT:g} is not kept.",
    ]
    parts += [
        f"> `{one.file}` was not compared on the images that were named: {plain(one.caution)}."
        for one in exports
        if one.caution is not None
    ]
    parts += [
        f"> `{name}` lies here, too, but is not of this network, or was changed: export it again." for name in others
    ]
    sums = "\n".join(f"{one.sha256}  {one.file}" for one in exports)
    return "\n\n".join([*parts, "SHA-256:", block(sums)])
