"""The test figures of a checkpoint, from the checkpoint alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from smallvision.errors import Refusal
from smallvision.overrides import Config
from smallvision.runs import Run
from smallvision.screen import Screen
from smallvision.tasks import common
from smallvision.tasks.drawn import draw_report
from smallvision.training import bare
from smallvision.training.checkpoint import is_bare, opened, read
from smallvision.training.setup import Setup, describe, make_data, make_setup, make_trainer


@dataclass
class Loaded:
    """A model with its weights; ``which``: the words for it; ``remark``: what to read its figures with."""

    setup: Setup
    epochs: int
    steps: int
    which: str
    remark: str | None = None


def run(config: Config, run: Run) -> dict[str, Any]:
    """Rebuild the model, test it once on the test images of its data (or of ``data=``)."""
    screen = Screen()
    file = Path(config["checkpoint"])
    loaded = load(file, config)
    setup = loaded.setup
    if not setup.data.sizes["test"]:
        raise Refusal(f"data={config['data']['name']}: has no test images")
    trainer = make_trainer(config, setup.device, run.directory, logger=False, enable_checkpointing=False)
    run.describe(config, setup.device.hardware)
    common.summary(screen, config, setup, run, f"testing {file}")
    if loaded.remark is not None:
        screen.say(f"  note       {loaded.remark}", style="yellow")
    record = setup.data.data
    started = time.perf_counter()
    trainer.test(setup.model, datamodule=setup.data, verbose=False)
    seconds = time.perf_counter() - started
    figures = common.results(config, setup, run, "completed")
    figures["metrics"] |= setup.model.figures
    figures |= {
        "tested": len(setup.model.tested),
        "epochs": loaded.epochs,
        "steps": loaded.steps,
        "best_checkpoint": str(file),
        "seconds": {"total": run.seconds, "fit": None, "test": seconds},
    }
    run.results(figures)
    screen.say()
    line = common.test_line(figures["metrics"], figures["tested"], loaded.which)
    screen.say(line, style="bold green")
    common.say_if_partial(screen, figures["tested"], setup)
    if record.stand_in_for is not None:
        screen.say(common.stand_in_line(record.stand_in_for), style="bold red")
    if config["report"]:
        draw_report(screen, setup, run, trained=False)
    return figures


def load(file: Path, config: Config) -> Loaded:
    """The model of ``file``: a checkpoint, or a bare state dict for the network and data of ``config``.

    Raises Refusal where the weights do not fit.
    """
    content = opened(file)
    if is_bare(content):
        return _load_bare(content, file, config)
    saved = read(file)
    weights = saved["state_dict"].values()
    setup = make_setup(config, make_data(config), saved["smallvision"], weights)
    try:
        setup.model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise Refusal(
            f"{file}: its weights do not fit its own config ({str(error).splitlines()[0]})"
        ) from None
    learnt, record, remark = saved["smallvision"]["data"], setup.data.data, None
    if learnt["fingerprint"] != record.fingerprint:
        remark = f"trained on other data: {learnt['name']}, {learnt['source']}"
    epochs = saved["epoch"] + 1
    return Loaded(setup, epochs, saved["global_step"], f"epoch {epochs}", remark)


def _load_bare(content: dict[str, Tensor], file: Path, config: Config) -> Loaded:
    whiten = config["data"]["normalisation"]["whiten"]
    if whiten:
        raise Refusal(f"data.normalisation.whiten={whiten}: a bare state dict has no such layer; use 0")
    bare.refuse_endless(content, file)
    data = make_data(config)
    setup = make_setup(config, data, describe(config, data))
    network, name = setup.model.network, config["model"]["name"]
    network.load_state_dict(bare.fitted(content, network, file, name))
    remark = f"{bare.SAYS_NOTHING} or its data: tested as {name}, {common.normalised_by(data)}"
    return Loaded(setup, 0, 0, "of a bare state dict", remark)
