"""smallvision: Lightning + Hydra experiments on small images.

As a library: :func:`fit`, :func:`load` and :func:`runs`, which import torch where they need it. They leave the settings
of the process as they were, and raise UserError, with the line of the command line, where the input is wrong.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smallvision.core.results import Results
    from smallvision.tasks.predict import ImagePredictor

__version__ = "0.2.0"
__all__ = ["fit", "load", "runs"]


def fit(*overrides: str, config_dir: str | Path | None = None) -> "Results":
    """Train as ``python train.py overrides`` does: ``smallvision.fit("model=mnist", "optimizer=adam")``.

    ``config_dir``: a further folder of configs. Returns what results.json holds, and the run's ``directory``. SIGINT
    ends the run, saved, with KeyboardInterrupt.
    """
    from smallvision.core.settings import unchanged_settings

    with unchanged_settings():
        from smallvision import cli
        from smallvision.core.errors import Interrupted

        try:
            return cli.fit([*overrides], None if config_dir is None else Path(config_dir))
        except Interrupted:
            raise KeyboardInterrupt from None


def load(path: str | Path, device: str = "auto", use: str | list[str] | None = None) -> "ImagePredictor":
    """The trained model of a run directory, a run's short name, a checkpoint or an exported .safetensors file.

    ``device``: auto, cuda, mps or cpu; ``use``: packages of your own code, without which what was made with it is
    refused. Nothing in the file is run.
    """
    from smallvision.core.settings import unchanged_settings

    with unchanged_settings():
        from smallvision.tasks.predict import ImagePredictor

        return ImagePredictor.load(str(path), device, [use] if isinstance(use, str) else use or [])


def runs(folder: str | Path = "outputs") -> list[dict[str, object]]:
    """A row per run below ``folder``, for ``pandas.DataFrame``: ``run`` (its directory), how it ended, its metrics, and
    its config by full keys, such as ``optimizer.lr``.

    ``folder`` may be a glob.
    """
    from smallvision.reports.run_view import RunView, find_runs

    return [RunView.read(directory).row() for directory in find_runs(str(folder))]
