"""Every snippet of docs/library.md and every cell of docs/notebook.ipynb runs, in order."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers.command import TRAIN
from PIL import Image

DOCS = TRAIN.parent / "docs"


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.tri(8, dtype=np.uint8) * 255).save(tmp_path / "photos/boot.png")


@pytest.mark.usefixtures("_folder")
def test_the_snippets_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", (DOCS / "library.md").read_text(), re.MULTILINE | re.DOTALL):
        exec(snippet, names)
    out = capsys.readouterr().out
    for printed in re.findall(r"# (optimizer=adm.*)", (DOCS / "library.md").read_text()):
        assert printed in out
    images = names["torch"].randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    logits = names["network"]((images / 255 - names["mean"]) / names["std"])
    torch.testing.assert_close(logits.softmax(1), names["net"].probabilities(images))
    torch.testing.assert_close(names["model"](images), logits)


@pytest.mark.usefixtures("_folder")
def test_the_notebook_runs_and_is_kept_without_outputs() -> None:
    cells = json.loads((DOCS / "notebook.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    names: dict[str, Any] = {}
    for cell in code:
        exec("".join(cell["source"]), names)
    assert len(names["rows"]) == 5
    assert [answer.label for answer in names["answers"]].count("0") >= 1
    assert len(names["axes"].lines) == 2
    plt.close("all")
