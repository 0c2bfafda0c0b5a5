"""`logger=`: where a run's metrics go in addition to its directory."""

import warnings
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from smallvision.config.schema import Logger as LoggerConfig
from smallvision.config.targets import instantiate, is_own
from smallvision.core import ranks
from smallvision.core.errors import UserError, did_you_mean
from smallvision.training.predictor import Predictor

# Arguments of loggers that a config may set. They have others, which start programs (wandb's settings) or choose
# folders to write to.
KEYS = (
    "experiment_name", "tracking_uri", "project", "offline", "entity", "group", "notes",
    "prefix", "run_id", "run_name", "tags",
)  # fmt: skip


def make_logger(config: LoggerConfig, run_dir: Path) -> Logger | None:
    """The logger of that choice, started, or None for csv. Raises UserError where it cannot start."""
    if config.target is None:
        return None
    arguments = {key: value for key, value in config.extra.items() if key != "graph"}  # logged at the run's end
    for key in arguments:
        if key not in KEYS and not is_own(config.target):
            raise UserError(f"logger.{key}: not allowed here.{did_you_mean(key, KEYS)}")
    places = {"save_dir": str(run_dir)}
    if config.name == "tensorboard":
        places |= {"name": "", "version": ""}
    if config.name == "mlflow" and arguments.get("tracking_uri") is None:
        arguments["tracking_uri"] = f"sqlite:///{quote(str(run_dir.resolve() / 'mlflow.db'))}"
        places["artifact_location"] = (run_dir.resolve() / "mlruns").as_uri()
    if config.name == "wandb":
        places["name"] = run_dir.name
    try:
        logger: Logger = instantiate("logger", replace(config, extra=arguments), **places)
        if ranks.rank() == 0:
            getattr(logger, "experiment", None)  # connects, or makes its files
    except UserError:
        raise
    except Exception as error:  # of any library
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"logger={config.name}: cannot start: {reason[:300]}") from None
    return logger


MOST_CLASSES = 50  # of a confusion matrix that is plotted
Images = tuple[Tensor, Tensor]


def log_final(
    loggers: list[Logger],
    config: dict[str, object],
    metrics: dict[str, float | None],
    predictor: Predictor | None,
    samples: Images,
    probabilities: Tensor,
    tested_labels: Tensor,
    graph: bool,
) -> None:
    """Hyperparameters with the run's final metrics, the first batch of training as images, the confusion
    matrix of the test and, with ``graph``, the network's graph; the last two need a ``predictor``.

    ``samples``: uint8 images N x C x H x W and their classes; ``tested_labels``: N, of the tested ``probabilities``.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        final = {f"final/{name}": value for name, value in metrics.items() if value is not None}
        logger.log_hyperparams(_flat(config), final)
        board = logger.experiment
        images, _ = samples
        if images.shape[1] in (1, 3):
            board.add_images("train/samples", images[:32].cpu().numpy())
        classes = [] if predictor is None else predictor.spec.classes
        if len(probabilities) and len(classes) <= MOST_CLASSES:
            matrix = MulticlassConfusionMatrix(len(classes))
            matrix.update(probabilities, tested_labels[: len(probabilities)])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of letters that matplotlib's font lacks
                figure, _ = matrix.plot(labels=classes)
                board.add_figure("test/confusion", figure)
        if graph and predictor is not None:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer
                normalised = predictor.normalise(images[:1].to(predictor.normalise.scale.device))
                board.add_graph(predictor.network, predictor.whiten(normalised))
        board.flush()


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, bool | int | float | str]:
    """By full keys; numbers as they are, anything else as text."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float)) else str(value)
    return found
