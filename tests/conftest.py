"""Fixtures that several files share."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers.command import TINY
from helpers.forks import train

os.environ["OMP_NUM_THREADS"] = "1"  # one thread a test process: the suite runs on every core


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the process of one tiny run with its page in ``run``, shared by a file's tests."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(folder, *TINY, "report=true", "hydra.run.dir=run")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-points", type=int, default=12, help="instants at which runs are killed")
    parser.addoption("--sweep-kills", type=int, default=1, help="instants at which a sweep is killed")
    parser.addoption("--command-lines", type=int, default=500, help="random command lines tried")
