"""Fixtures that several files share."""

import gc
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.command import TINY
from helpers.fast_yaml import parse_in_c
from helpers.forks import train

os.environ["OMP_NUM_THREADS"] = "1"  # one thread a test process: the suite runs on every core


def pytest_configure() -> None:
    parse_in_c()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: no need to search it again and again


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the process of one tiny run with its page in ``run``; nobody changes anything there."""
    folder = tmp_path_factory.mktemp("finished_once")
    return folder, train(folder, *TINY, "report=true", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def finished(
    finished_once: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A copy of it, shared by a file's tests."""
    folder, process = finished_once
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("finished"), dirs_exist_ok=True)), process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-points", type=int, default=12, help="instants at which runs are killed")
    parser.addoption("--cluster", action="store_true", help="start real servers and run tests/cluster on them")
    parser.addoption("--sweep-kills", type=int, default=1, help="instants at which a sweep is killed")
    parser.addoption("--command-lines", type=int, default=500, help="random command lines tried")
