"""The test figures of a checkpoint, from the checkpoint alone."""

import time
from pathlib import Path
from typing import Any

from smallvision.errors import Refusal
from smallvision.overrides import Config
from smallvision.runs import Run
from smallvision.screen import Screen
from smallvision.tasks import common
from smallvision.tasks.drawn import draw_report
from smallvision.training.checkpoint import read
from smallvision.training.setup import make_data, make_setup, make_trainer


def run(config: Config, run: Run) -> dict[str, Any]:
    """Rebuild the model, test it once on the test images of its data (or of ``data=``)."""
    screen = Screen()
    file = Path(config["checkpoint"])
    saved = read(file)
    setup = make_setup(config, make_data(config), saved["smallvision"])
    try:
        setup.model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise Refusal(
            f"{file}: its weights do not fit its own config ({str(error).splitlines()[0]})"
        ) from None
    if not setup.data.sizes["test"]:
        raise Refusal(f"data={config['data']['name']}: has no test images")
    trainer = make_trainer(config, setup.device, run.directory, logger=False, enable_checkpointing=False)
    run.describe(config, setup.device.hardware)
    common.summary(screen, config, setup, run, f"testing {file}")
    learnt = saved["smallvision"]["data"]
    record = setup.data.data
    if learnt["fingerprint"] != record.fingerprint:
        screen.say(
            f"  note       trained on other data: {learnt['name']}, {learnt['source']}", style="yellow"
        )
    started = time.perf_counter()
    trainer.test(setup.model, datamodule=setup.data, verbose=False)
    seconds = time.perf_counter() - started
    figures = common.results(config, setup, run, "completed")
    figures["metrics"] |= setup.model.figures
    figures |= {
        "tested": len(setup.model.tested),
        "epochs": saved["epoch"] + 1,
        "steps": saved["global_step"],
        "best_checkpoint": str(file),
        "seconds": {"total": run.seconds, "fit": None, "test": seconds},
    }
    run.results(figures)
    screen.say()
    line = common.test_line(figures["metrics"], figures["tested"], f"epoch {figures['epochs']}")
    screen.say(line, style="bold green")
    common.say_if_partial(screen, figures["tested"], setup)
    if record.stand_in_for is not None:
        screen.say(common.stand_in_line(record.stand_in_for), style="bold red")
    if config["report"]:
        draw_report(screen, setup, run, trained=False)
    return figures
