"""Hostile run directories: resume=RUN_DIR and task=report refuse each in one line, and nothing in it is run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.hostile import SECTIONS, Content, Ground, check_harmless, check_refused, replaced

# By kind: where in last.ckpt, and what; parts that only a continued run reads.
STATES: dict[str, tuple[list[Any], Any]] = {
    "no optimizer": (["optimizer_states"], []),
    "an optimizer of other groups": (["optimizer_states", 0, "param_groups"], []),
    "an optimizer's state of another shape": (
        ["optimizer_states", 0, "state", 0, "exp_avg"], torch.zeros(1).expand(10**9)),
    "an optimizer that is text": (["optimizer_states", 0], "x"),
    "no loops": (["loops"], {}),
    "loops that are a list": (["loops"], [1]),
    "a loop's progress that is text": (["loops", "fit_loop", "epoch_progress"], "x"),
    "no version of Lightning": (["pytorch-lightning_version"], "x"),
    "a history that is text": (["callbacks", "MetricsCSV", "history"], "x"),
    "a callback's state that is a list": (["callbacks", "Checkpointing"], [1]),
    "no position": (["smallvision", "position"], "x"),
    "sums that are text": (["state_dict", "train_metrics.loss"], "x"),
    "a schedule's state that is text": (["lr_schedulers", 0], "x"),
    "a schedule of other rates": (["lr_schedulers", 0, "base_lrs"], "x"),
    "a schedule with an attribute more": (["lr_schedulers", 0, "optimizer"], "x"),
    "callbacks that are a list": (["callbacks"], [1]),
}  # fmt: skip
IGNORED: dict[str, tuple[list[Any], Any]] = {
    "a callback's own method": (["callbacks", "Checkpointing", "warn"], "x"),
    "a callback's own path": (["callbacks", "Checkpointing", "last_path"], "/tmp/elsewhere"),
    "a position beyond the epoch": (["smallvision", "position"], {"epoch": 0, "batch": 10**12}),
}
# By kind: where in config.yaml, and what.
CONFIGS: dict[str, tuple[list[str], Content]] = {
    **SECTIONS,
    "torch.load for the data": (["data", "_target_"], "torch.load"),
    "an import for the optimizer's rest": (["optimizer", "rest"], {"_target_": "marking.mark"}),
    "ours, but not on the list": (["model", "_target_"], "smallvision.config.targets.build"),
    "a module that ours imports": (["data", "_target_"], "smallvision.data.arrays.zipfile"),
    "an import for a key of the model": (["model", "hidden"], {"_target_": "marking.mark"}),
    "an interpolation for a name": (["model", "name"], "${oc.env:HOME}"),
    "a path for a name": (["data", "name"], "../../../elsewhere"),
    "a logger's own program": (["logger"], {
        "name": "x", "_target_": "lightning.pytorch.loggers.WandbLogger", "settings": {"x_executable": "/bin/sh"}}),
    "a logger's folder elsewhere": (["logger"], lambda ground: {
        "name": "x", "_target_": "lightning.pytorch.loggers.CSVLogger", "version": str(ground.marks / "elsewhere")}),
    "a callback of Lightning's": (["trainer", "callbacks"], [{"_target_": "marking.mark"}]),
    "a model hub of Lightning's": (["trainer", "model_registry"], "marking"),
    "a plugin of Lightning's": (["trainer", "plugins"], ["marking.mark"]),
}  # fmt: skip

LAUGHS = "".join(f"  l{n}: &l{n} [{', '.join(['*l' + str(n - 1)] * 9)}]\n" for n in range(1, 30))
NUMBER = f"0x{'f' * 10_000}"
# By kind: the text of a config.yaml, from that of an honest one.
YAML: dict[str, Callable[[Ground, str], str]] = {
    "a tag that calls": lambda ground, text: (
        f"seed: !!python/object/apply:os.system ['{ground.touch('yaml')}']\n{text}"),
    "a tag that imports": lambda _, text: f"{text}\nmore: !!python/name:marking.mark\n",
    "a tag that makes": lambda _, text: f"{text}\nmore: !!python/object/new:marking.mark []\n",
    "nine to the 29th entries": lambda _, text: text.replace("\nmodel:\n", f"\nmodel:\n  l0: &l0 [ha]\n{LAUGHS}"),
    "lists 50,000 deep": lambda *_: "[" * 50_000,
    "a number of 40,000 bits": lambda _, text: (
        text.replace("\nseed: 0", f"\nseed: {NUMBER}").replace("seed: 0\n", f"seed: {NUMBER}\n")),
    "a set, a date and bytes": lambda _, text: f"{text}\nmore: [!!set {{a}}, 2020-01-01, !!binary aGk=]\n",
    "no text": lambda *_: "\0\x1b[2J",
}  # fmt: skip


def huge_metric(results: dict[str, Any]) -> str:
    value = json.dumps(results["metrics"]["val/acc"])
    text = json.dumps(results).replace('"metrics": {', '"metrics": {"val/acc": 1, ')
    return text.replace(f'"val/acc": {value}', f'"val/acc": 1{"0" * 400}')


# By kind: the text of a results.json, from an honest one.
RESULTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "lists 100,000 deep": lambda _: "[" * 100_000 + "]" * 100_000,
    "sections 100,000 deep": lambda _: '{"data":' * 100_000,
    "an infinite metric": huge_metric,
    "a number of 5,000 digits": lambda found: json.dumps(found).replace('"seed": 0', f'"seed": {"9" * 5000}'),
    "metrics that are lists": lambda found: json.dumps(found | {"metrics": [[]], "status": [], "data": 3}),
    "a status that is a number": lambda found: json.dumps(found | {"status": 7}),
    "no text": lambda _: "\0\x1b[2J",
}
TERMINAL_COMMANDS = "\x1b[2J\x1b]0;gone\a\u202e\n=cmd|' /C calc'"


@pytest.fixture
def theirs(ground: Ground, tmp_path: Path) -> Path:
    """A copy of the honest run, to be made hostile."""
    return Path(shutil.copytree(ground.run, tmp_path / "theirs"))


def put_in_checkpoint(ground: Ground, run: Path, path: list[Any], content: Any) -> None:
    (run / "checkpoints/best.ckpt").unlink()
    torch.save(replaced(ground.checkpoint(), path, content, ground), run / "checkpoints/last.ckpt")


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_does_not_fit_the_run_is_refused(ground: Ground, theirs: Path, kind: str) -> None:
    put_in_checkpoint(ground, theirs, *STATES[kind])
    typed = [f"resume={theirs}", "trainer.max_epochs=2"]
    check_refused(ground, theirs.parent, typed, "/checkpoints/last.ckpt: ")


@pytest.mark.parametrize("kind", IGNORED)
def test_what_a_continued_run_does_not_read_does_no_harm(ground: Ground, theirs: Path, kind: str) -> None:
    put_in_checkpoint(ground, theirs, *IGNORED[kind])
    check_harmless(ground, theirs.parent, [f"resume={theirs}", "trainer.max_epochs=2"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_names_what_it_may_not_is_refused(ground: Ground, theirs: Path, kind: str) -> None:
    path, content = CONFIGS[kind]
    (theirs / "config.yaml").write_text(yaml.safe_dump(replaced(ground.config(), path, content, ground)))
    check_refused(ground, theirs.parent, [f"resume={theirs}", "trainer.max_epochs=2"], f"error: {path[0]}")


@pytest.mark.parametrize("kind", YAML)
def test_a_config_that_is_no_plain_yaml_is_refused(ground: Ground, theirs: Path, kind: str) -> None:
    file = theirs / "config.yaml"
    file.write_text(YAML[kind](ground, file.read_text()))
    check_refused(ground, theirs.parent, [f"resume={theirs}"], f"{file}: ")


@pytest.mark.parametrize("kind", RESULTS)
def test_a_results_json_of_another_form_is_refused(ground: Ground, theirs: Path, kind: str) -> None:
    file = theirs / "results.json"
    file.write_text(RESULTS[kind](json.loads(file.read_text())))
    check_refused(ground, theirs.parent, ["task=report", f"runs={theirs}"], f"{file}: ")


def test_terminal_commands_in_a_results_json_are_shown_as_text(ground: Ground, theirs: Path) -> None:
    file = theirs / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"optimizer": TERMINAL_COMMANDS}))
    check_harmless(ground, theirs.parent, ["task=report", f"runs={theirs}"])


def test_a_pipe_for_a_results_json_is_not_read(ground: Ground, theirs: Path) -> None:
    (theirs / "results.json").unlink()
    os.mkfifo(theirs / "results.json")
    check_refused(ground, theirs.parent, ["task=report", f"runs={theirs}"], f"runs={theirs}: no runs there")
