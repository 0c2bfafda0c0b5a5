"""smallvision installed from its wheel in a new environment: the same command line, from any folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.command import NO_NETWORK, TINY, TRAIN, results

BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"  # as pip does, without its network
# As pip writes it.
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {name}\nif __name__ == '__main__':\n    sys.exit({name}())\n"
OWN = """# @package _global_
defaults:
  - override /model: own
use: mine
model: {_target_: mine.Net}
"""
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, size):
        super().__init__(nn.Flatten(), nn.Linear(size[0] * size[1], classes))
"""


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a new environment with the wheel, and with the libraries of this environment."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("environment")
    for name in ("setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TRAIN.with_name(name), source)
    for name in ("src", "configs"):
        shutil.copytree(TRAIN.with_name(name), source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    venv.create(place, symlinks=True)
    packages = next(place.glob("lib/python*/site-packages"))
    zipfile.ZipFile(next((source / "dist").glob("*.whl"))).extractall(packages)
    shutil.rmtree(source)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    entry = next(packages.glob("smallvision-*.dist-info/entry_points.txt")).read_text()
    [(module, name)] = re.findall(r"^smallvision = ([\w.]+):(\w+)$", entry, re.MULTILINE)
    script = place / "bin/smallvision"
    script.write_text(SCRIPT.format(python=place / "bin/python", module=module, name=name))
    script.chmod(0o755)
    (packages / "smallvision/configs/experiment/site.yaml").write_text(OWN)
    return script.parent


def shell(cwd: Path, bin_folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What is typed where the new environment is active."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SMALLVISION_DATA")}
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    env = {**kept, **NO_NETWORK, "PATH": path}
    return subprocess.run(line, shell=True, cwd=cwd, env=env, capture_output=True, text=True)


def test_the_command_runs_from_any_folder_and_what_it_prints_can_be_pasted(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NET)
    ended = shell(
        tmp_path, bin_folder, f"smallvision {' '.join(TINY)} experiment=site trainer.devices=2 hydra.run.dir=run"
    )
    assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "run")["model"]["name"] == "Net"
    [goes_on] = re.findall(r"^ +continue +(smallvision .*)", ended.stdout, re.MULTILINE)
    assert "resume=run" in goes_on
    assert '"git": null' in (tmp_path / "run/environment.json").read_text()
    assert '"command": "smallvision data=shapes' in (tmp_path / "run/environment.json").read_text()
    for line in (goes_on, goes_on.replace("smallvision", "python -m smallvision", 1)):
        assert "max_epochs: 4" in shell(tmp_path, bin_folder, f"{line} --cfg job").stdout


def test_a_sweep_starts_its_workers_and_its_test_without_train_py(bin_folder: Path, tmp_path: Path) -> None:
    search = "sweep=random sweep.trials=1 sweep.workers=1 sweep.test_best=true sweep.name=mine"
    ended = shell(
        tmp_path,
        bin_folder,
        f"smallvision -m {' '.join(TINY)} {search} trainer.max_epochs=1 optimizer.lr=1e-3,1e-2",
    )
    assert ended.returncode == 0, ended.stderr
    assert "could not be tested" not in ended.stdout
    assert results(next(tmp_path.glob("outputs/sweeps/mine/test-*")))["metrics"]["test/acc"] > 0


def test_help_and_refusals_name_the_command(bin_folder: Path, tmp_path: Path) -> None:
    assert "\nsmallvision model=mnist" in shell(tmp_path, bin_folder, "smallvision --help").stdout
    assert "lr: 0.001" in shell(tmp_path, bin_folder, "smallvision optimizer=adam --cfg job").stdout
    ended = shell(tmp_path, bin_folder, "smallvision --nonsense")
    assert (ended.returncode, ended.stderr[:6]) == (2, "error:")
    assert ended.stderr.endswith("see smallvision --help\n")
