"""Whatever is typed: it is understood or refused in one line, and never a traceback.

`--command-lines 5000` tries more.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command import TRAIN
from helpers.forks import train, train_without_torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from smallvision import cli
from smallvision.config import fields
from smallvision.config.schema import Config, Sweep

CONFIGS = TRAIN.parent / "configs"


def keys_of(section: Any, prefix: str = "") -> Iterator[str]:
    """Every key that has a type, at any depth."""
    for key, annotation in {**section.key_types(), **section.extra_types()}.items():
        inner = fields.section_of(annotation)
        yield f"{prefix}{key}"
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{key}.")


KEYS = sorted([*keys_of(Config), *keys_of(Sweep, "sweep.")])
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in CONFIGS.iterdir() if folder.is_dir()
}
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=True, width=32)
WORDS = st.sampled_from(
    ["null", "true", "auto", "???", "''", '"a b"', "[1,2]", "[]", "{a:1}", "{}", "[[1],[2]]", "${seed}",
     "${oops}",
     "${oc.env:HOME}", "${now:%Y}", "1e400", "0x10", "1_000", "-0.0", "torch.optim.SGD", "os.system", "../..",
     "/dev/null", "ü", "a,b", "range(1,3)", "glob(*)", "choice(1,2)", "interval(0,1)", "\\", "'", "[",
     "}", "="]
)  # fmt: skip
VALUES = NUMBERS.map(str) | WORDS | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
LINES = st.one_of(
    st.tuples(st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(KEYS), VALUES).map(
        lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
    ),
    st.sampled_from(sorted(GROUPS)).flatmap(
        lambda group: st.sampled_from([*GROUPS[group], "nope", "null", ""]).map(lambda one: f"{group}={one}")
    ),
    st.tuples(st.sampled_from(["~", "", "hydra.", "hydra/", "--", "-"]), VALUES, VALUES).map(
        lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
    ),
    VALUES,
)


def exit_code(argv: list[str]) -> int:
    """Of the command line, with the run itself left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TRAIN), *argv])
        patch.setattr(cli, "run_task", lambda *_: None)
        patch.setattr("smallvision.sweeps.sweep.run", lambda *_: None)
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_no_command_line_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("typed"))
    codes: list[int] = []

    @settings(
        max_examples=request.config.getoption("--command-lines"),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(st.lists(LINES, min_size=1, max_size=3))
    def typed(argv: list[str]) -> None:
        code = exit_code(argv)
        said = capsys.readouterr().err
        assert code in (0, 2), argv
        if code == 2:
            assert said.startswith("error: "), (argv, said)
            assert said.count("\n") == 1, (argv, said)
        codes.append(code)

    typed()
    assert {0, 2} == set(codes)


REAL = 8  # of them to the end


def test_as_processes_of_their_own_they_end_in_the_same_way(tmp_path: Path) -> None:
    """Those that are understood run, on little data: what is typed last counts."""
    little = ["data=shapes", "data.images=120", "data.test_images=20", "data.size=12", "data.val_size=20",
              "model=fashion_mnist", "model.hidden=[4]", "trainer.max_epochs=1"]  # fmt: skip
    chosen: list[list[str]] = []

    @settings(max_examples=REAL, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.lists(LINES, min_size=1, max_size=3))
    def draw(argv: list[str]) -> None:
        chosen.append(argv)

    draw()
    lines = [*([*little, *argv] for argv in chosen), little]
    codes = []
    for argv in lines:
        process = train(tmp_path, *argv)
        assert process.returncode in (0, 2), (argv, process.stderr)
        assert "Traceback" not in process.stderr, argv
        if process.returncode == 2:
            assert process.stderr.startswith("error: "), argv
            assert process.stderr.count("\n") == 1, argv
        codes.append(process.returncode)
    assert codes[-1] == 0
    assert 2 in codes


# A config folder from elsewhere ----------------------------------------------------------------------------

CALL = {"_target_": "marking.mark"}  # to import it leaves a mark
HANDLED = {"version": 1, "handlers": {"one": {"()": "marking.mark"}}}
NODES: dict[str, Any] = {
    "callback": {"callbacks": {"one": CALL}},
    "launcher": {"launcher": CALL},
    "sweeper": {"sweeper": CALL},
    "log handler": {"job_logging": HANDLED},
    "log formatter": {"job_logging": {"version": 1, "formatters": HANDLED["handlers"]}},
    "hydra's log handler": {"hydra_logging": HANDLED},
    "environment": {"job": {"env_set": {"PYTHONSTARTUP": "mark"}}},
    "search path": {"searchpath": ["pkg://marking"]},
}


@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]], ids=["run", "multirun"])
@pytest.mark.parametrize("name", NODES)
def test_a_folder_of_configs_has_hydra_run_nothing(finished: Any, tmp_path: Path, name: str, flags: list[str]) -> None:
    """The run's own config with Hydra's node beside it, as a stranger would hand it over."""
    begun = tmp_path / "theirs"
    begun.mkdir()
    config = yaml.safe_load((finished[0] / "run/config.yaml").read_text())
    (begun / "config.yaml").write_text(yaml.safe_dump({**config, "hydra": NODES[name]}))
    (tmp_path / "marking").mkdir()
    (tmp_path / "marking/__init__.py").write_text("import os; os.mkdir('mark')")
    process = train_without_torch(
        tmp_path, *flags, f"--config-path={begun}", "--config-name=config", modules=str(tmp_path)
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert "hydra." in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "mark").exists()
