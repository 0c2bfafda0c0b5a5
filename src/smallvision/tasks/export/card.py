"""exports.json, which lists the verified files of a directory, and model_card.md, which describes their network."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import get_type_hints

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from smallvision.config.fields import accepts
from smallvision.core.errors import UserError, printable
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, assign, command, using, write_text
from smallvision.models.pretrained import PretrainedNetwork
from smallvision.reports.formatting import count
from smallvision.reports.statistics import wilson
from smallvision.training.predictor import Predictor

FILE, MANIFEST = "model_card.md", "exports.json"
MAX_BYTES = 1_000_000  # of exports.json
MAX_CLASSES = 100  # that the card names
MAX_LENGTH = 300  # of an inserted text


@dataclass(frozen=True)
class Export:
    """One file. ``of``: the identity of the network (see safetensors_file); ``difference``: the largest between
    two probabilities on the ``images`` of verification; ``agreed``: how many of them get the same class;
    ``batches``: the sizes of the batches; ``caution``: why the images are not test images of the chosen data;
    ``seconds``: to write and verify it.
    """

    format: str
    file: str
    bytes: int
    sha256: str
    of: str
    difference: float
    agreed: int
    images: int
    batches: str
    compared_on: str
    caution: str | None
    runtime: str
    seconds: float


# exports.json ---------------------------------------------------------------------------------------------


def update(
    folder: Path, predictor: Predictor, export: Export, files: dict[str, str], limit: float
) -> dict[str, Export]:
    """Add ``export`` to exports.json and to the card, with those of the same network, which are returned by format.

    ``files``: their names by format. Raises OSError where the folder cannot be written.
    """
    known = read_exports(folder, files, export.of) | {export.format: export}
    exports = {name: known[name] for name in files if name in known}
    others = [file for name, file in files.items() if name not in exports and (folder / file).exists()]
    write_exports(folder, list(exports.values()))
    write_text(folder / FILE, render(predictor, list(exports.values()), others, limit))
    return exports


def read_exports(folder: Path, files: dict[str, str], of: str) -> dict[str, Export]:
    """By format, the exports in ``folder`` of the network ``of`` whose files are as they were written.

    ``files``: their names by format. A file that is missing and an entry that is malformed are ignored.
    """
    try:
        if (folder / MANIFEST).stat().st_size > MAX_BYTES:
            return {}
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    exports, types = {}, get_type_hints(Export)
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.keys() != types.keys():
            continue
        if not all(accepts(entry[name], kind) for name, kind in types.items()):
            continue
        export = Export(**entry)
        if (
            export.of == of
            and files.get(export.format) == export.file
            and _sha256(folder / export.file) == export.sha256
        ):
            exports[export.format] = export
    return exports


def _sha256(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def write_exports(folder: Path, exports: list[Export]) -> None:
    write_text(folder / MANIFEST, json.dumps([asdict(export) for export in exports], indent=2) + "\n")


# model_card.md --------------------------------------------------------------------------------------------


def render(predictor: Predictor, exports: list[Export], others: list[str], limit: float) -> str:
    """The page. ``others``: files of exports in the same directory that are of another network; ``limit``: of the
    difference.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=escape)
    environment.filters |= {"count": count, "code": code_block}
    source = resources.files("smallvision.tasks.export").joinpath("templates/model_card.md.jinja")
    checkpoint, spec, network = predictor.checkpoint, predictor.spec, predictor.network
    page = environment.from_string(source.read_text(encoding="utf-8")).render(
        spec=spec,
        views=len(predictor.tta),
        parameters=predictor.parameter_count,
        epoch=checkpoint.epoch,
        config=checkpoint.config,
        library=network.library if isinstance(network, PretrainedNetwork) else None,
        origin=network.origin if isinstance(network, PretrainedNetwork) and network.weights is not None else None,
        data={"stand_in_for": None, "remark": None, **checkpoint.dataset},
        accuracies=measured(predictor),
        exports=exports,
        others=others,
        limit=limit,
        max_classes=MAX_CLASSES,
        command=command(
            "task=export",
            assign("checkpoint", checkpoint.path),
            f"format={exports[0].format}",
            *using(checkpoint.config.get("use")),
        ),
    )
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def escape(value: object) -> str:
    """Text as Markdown shows it: one line in which nothing is a mark, a link, a tag or the end of a cell."""
    if isinstance(value, Markup):
        return value
    line = " ".join(printable(str(value)).split())
    line = line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]()#+!|~$^])", r"\\\1", line)
    return re.sub(r"(?i)(https?|ftp|www)([:.])", r"\1\\\2", line)  # addresses become links without any mark


def code_block(code: str, language: str = "") -> Markup:
    """A fenced block; its fence is longer than any in ``code``."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{printable(code)}\n{fence}")


@dataclass(frozen=True)
class Accuracy:
    """Of ``part`` (validation or test). ``count``: images, None where only some were evaluated and their number
    is not known; ``interval``: the 95 % interval, None where the count is.
    """

    part: str
    accuracy: float
    count: int | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.count is None else wilson(round(self.accuracy * self.count), self.count)


def measured(predictor: Predictor) -> list[Accuracy]:
    """The accuracies in the results.json of the run that the checkpoint is the best of; none of any other file,
    and none where that run was of other images or another epoch.
    """
    checkpoint = predictor.checkpoint
    path = checkpoint.path
    if path.name != "best.ckpt" or path.parent.name != "checkpoints":
        return []
    try:
        results = Results.read(RunDir(path.parent.parent).results_json)
    except UserError:
        return []
    trained_on = (results.task, results.data.fingerprint, results.best_epoch)
    if trained_on != ("fit", checkpoint.dataset["fingerprint"], checkpoint.epoch):
        return []
    saved = checkpoint.config
    partial = saved["trainer"].get("limit_val_batches") is not None
    accuracies = []
    for part, metric, images in (
        ("validation", "val/acc", None if partial else results.data.val),
        ("test", "test/acc", results.tested),
    ):
        accuracy = results.metrics[metric]
        if accuracy is not None and 0 <= accuracy <= 1 and images != 0:
            accuracies.append(Accuracy(part, accuracy, images))
    return accuracies
