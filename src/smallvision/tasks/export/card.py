"""model_card.md: what the network is, what it was trained on, how accurate it is, and what is not known of it."""

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from smallvision.core.errors import UserError, printable
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, command
from smallvision.reports.formatting import count
from smallvision.reports.statistics import wilson
from smallvision.tasks.export.manifest import Export
from smallvision.tasks.export.verify import LIMIT
from smallvision.training.predictor import Predictor

FILE = "model_card.md"
MAX_CLASSES = 100  # that the card names
MAX_LENGTH = 300  # of an inserted text


def render(predictor: Predictor, exports: list[Export], others: list[str]) -> str:
    """The page. ``others``: files of exports in the same directory that are of another network."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=escape)
    environment.filters |= {"count": count, "code": code_block}
    source = resources.files("smallvision.tasks.export").joinpath("templates/model_card.md.jinja")
    checkpoint, spec = predictor.checkpoint, predictor.spec
    saved = checkpoint.config
    page = environment.from_string(source.read_text(encoding="utf-8")).render(
        spec=spec,
        shape=" x ".join(map(str, spec.shape)),
        size=", ".join(map(str, spec.shape)),
        views=len(predictor.tta),
        parameters=predictor.parameter_count,
        epoch=checkpoint.epoch,
        config=saved,
        data={"stand_in_for": None, "remark": None, **checkpoint.dataset},
        accuracies=measured(predictor),
        other_views=spec.tta != saved["tta"],
        exports=exports,
        others=others,
        limit=LIMIT,
        max_classes=MAX_CLASSES,
        command=command("task=export", f"checkpoint={checkpoint.path}", f"format={exports[0].format}"),
    )
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def escape(value: Any) -> Any:
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
    if (
        results.task != "fit"
        or results.data.fingerprint != checkpoint.dataset["fingerprint"]
        or results.best_epoch != checkpoint.epoch
    ):
        return []
    saved = checkpoint.config
    partial = saved["trainer"].get("limit_val_batches") is not None
    accuracies = []
    for part, metric, images in (("validation", "val/acc", results.data.val), ("test", "test/acc", results.tested)):
        accuracy = results.metrics[metric]
        if accuracy is not None and 0 <= accuracy <= 1 and images > 0:
            accuracies.append(Accuracy(part, accuracy, None if partial and part == "validation" else images))
    return accuracies
