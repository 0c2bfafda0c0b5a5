"""That the payloads are real: opened without care they leave their marks; and that every file is still tried."""

import pickle
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers.hostile import Ground, os_system, pickle_file
from hostile import test_checkpoints, test_data_files, test_run_directories


def test_132_hostile_files_are_tried() -> None:
    checkpoints = [test_checkpoints.PICKLES, test_checkpoints.DAMAGE, test_checkpoints.SECTIONS]
    runs = [getattr(test_run_directories, name) for name in ("STATES", "IGNORED", "CONFIGS", "YAML", "RESULTS")]
    data = [test_data_files.ARCHIVES, test_data_files.HARMLESS_ARCHIVES, test_data_files.IMAGE_FILES]
    single = 4  # tests of one file each: terminal commands, two pipes, an image and a zip archive in one
    assert sum(map(len, [*checkpoints, *runs, *data])) + single == 132


def test_the_same_payloads_leave_marks_where_they_are_opened_without_care(ground: Ground, tmp_path: Path) -> None:
    here = Ground(tmp_path, ground.run, 0.0)
    here.marks.mkdir()
    test_checkpoints.PICKLES["os.system beside the weights"](here, tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    pickle.loads(pickle_file(here).read_bytes())
    yaml.unsafe_load(test_run_directories.YAML["a tag that calls"](here, ""))
    call: Any = os_system(here)
    pydoc.locate(call["_target_"])(call["command"])  # type: ignore[operator]
    test_data_files.ARCHIVES["objects in classes"](here, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        arrays["classes"]
    assert {mark.name for mark in here.marks.iterdir()} == {"pickle", "loaded", "yaml", "target", "npz"}


def test_pillow_left_to_itself_starts_ghostscript(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "postscript.png").write_bytes(test_data_files.POSTSCRIPT)
    program = "from PIL import Image; Image.open('postscript.png').load()"
    path = {"PATH": f"{ground.root / 'bin'}:/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, env=path)
    assert (ground.marks / "ghostscript").exists()
    (ground.marks / "ghostscript").unlink()
