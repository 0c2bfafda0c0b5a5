"""A .safetensors file rebuilds its predictor alone, and any that task=export would not write is refused."""

import json
import struct
import time
import tracemalloc
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers.predictors import predictor_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from smallvision.core.errors import UserError
from smallvision.tasks.export import safetensors_file
from smallvision.tasks.export.safetensors_file import KEYS, load, make_metadata

TYPED = ("model=fashion_mnist", "model.hidden=[4]", "tta.flip=true")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a tiny network."""
    predictor = predictor_of((1, 12, 12), *TYPED, classes=list("abcdefghij"))
    file = tmp_path_factory.mktemp("honest") / "model.safetensors"
    file.write_bytes(safetensors_file.to_bytes(predictor, make_metadata(predictor)))
    return file


def taken_apart(file):
    """Tensors and metadata, the latter with its JSON read."""
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    words = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = load(file).state_dict()
    return tensors, {key: json.loads(words[key]) if key in KEYS else words[key] for key in words}


def put_together(file, tensors, words):
    said = {key: json.dumps(one) if key in KEYS else one for key, one in words.items()}
    file.write_bytes(save({name: one.contiguous() for name, one in tensors.items()}, said))
    return file


def test_the_file_alone_rebuilds_the_predictor(honest):
    predictor = load(honest)
    assert (predictor.spec.shape, predictor.spec.classes) == ((1, 12, 12), list("abcdefghij"))
    assert not predictor.training
    images = torch.randint(0, 256, (3, 1, 12, 12), dtype=torch.uint8)
    probabilities = predictor(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    torch.testing.assert_close(probabilities, predictor(images.flip(3)))  # its views are of both sides


def test_what_was_put_together_again_is_read(honest, tmp_path):
    file = put_together(tmp_path / "again.safetensors", *taken_apart(honest))
    load(str(file))


HOSTILE = {
    "a target that is not on the list": (["config", "model", "_target_"], "os.system"),
    "a target of ours that is no network": (["config", "model", "_target_"], "smallvision.models.torch"),
    "an argument that calls": (["config", "model", "hidden"], {"_target_": "os.system"}),
    "an argument that does not exist": (["config", "model", "more"], 1),
    "a key that does not exist": (["config", "more"], 1),
    "a config that is a list": (["config"], []),
    "a section that is missing": (["config", "model"], None),
    "a model of 10^9 units": (["config", "model", "hidden"], [10**9]),
    "a model of nine thousand layers": (["config", "model", "hidden"], [4] * 9000),
    "a model of millions of layers": (
        ["config", "model"],
        {"name": "x", "_target_": "smallvision.models.CifarNet", "widths": [1], "depths": [10**7]},
    ),
    "a model that is filled in a loop": (
        ["config", "model"],
        {"name": "x", "_target_": "smallvision.models.AirbenchNet", "widths": [10**7, 10**7]},
    ),
    "another width": (["config", "model", "hidden"], [5]),
    "whitening larger than the images": (["config", "data", "normalisation", "whiten"], 8),
    "a seed of 4,000 bits": (["config", "seed"], 2**4000),
    "views moved further than the images are wide": (["config", "tta", "shift"], 12),
    "other classes": (["classes"], ["a", "b"]),
    "no classes": (["classes"], []),
    "classes that are numbers": (["classes"], list(range(10))),
    "a shape of two": (["shape"], [12, 12]),
    "a shape of nothing": (["shape"], [1, 0, 12]),
    "endless images": (["shape"], [1, 2**31 - 1, 2**31 - 1]),
    "another channel": (["shape"], [3, 12, 12]),
    "no mean": (["mean"], []),
    "a mean that is no number": (["mean"], [float("nan")]),
    "a deviation of nothing": (["std"], [0.0]),
    "a deviation that is text": (["std"], ["x"]),
    "another version": (["smallvision"], "2"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_metadata_that_task_export_would_not_write_are_refused_in_one_line(honest, tmp_path, case):
    tensors, words = taken_apart(honest)
    path, content = HOSTILE[case]
    words = deepcopy(words)
    node = words
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = content
    file = put_together(tmp_path / "file.safetensors", tensors, words)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(UserError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert time.process_time() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("key", KEYS)
def test_metadata_that_cannot_be_read_are_refused(honest, tmp_path, key):
    tensors, words = taken_apart(honest)
    for wrong in ("", "{", "[" * 100_000, "1" * 5000):
        said = {name: json.dumps(one) if name in KEYS else one for name, one in words.items()}
        file = tmp_path / "file.safetensors"
        file.write_bytes(save({name: one.contiguous() for name, one in tensors.items()}, {**said, key: wrong}))
        with pytest.raises(UserError, match=r"file\.safetensors: "):
            load(file)


def tensors_of(case, tensors):
    first = min(tensors)
    return {
        "a weight of another shape": {**tensors, first: tensors[first].reshape(-1)[:1]},
        "a weight of another kind": {**tensors, first: tensors[first].double()},
        "whole numbers": {**tensors, first: tensors[first].long()},
        "a weight too few": {name: one for name, one in tensors.items() if name != first},
        "a weight too many": {**tensors, "more": torch.zeros(10)},
        "no weights": {},
    }[case]


@pytest.mark.parametrize(
    "case",
    ["a weight of another shape", "a weight of another kind", "whole numbers", "a weight too few",
     "a weight too many", "no weights"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(honest, tmp_path, case):
    tensors, words = taken_apart(honest)
    file = put_together(tmp_path / "file.safetensors", tensors_of(case, tensors), words)
    with pytest.raises(UserError, match=r"file\.safetensors: .*(do not fit|larger than the weights)"):
        load(file)


def test_a_file_cut_short_is_refused_wherever_it_was_cut(honest, tmp_path):
    content = honest.read_bytes()
    file = tmp_path / "short.safetensors"
    for length in [*range(0, len(content), 97), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"short\.safetensors: damaged"):
            load(file)
    file.write_bytes(content + b"more")
    with pytest.raises(UserError, match="damaged"):
        load(file)


@pytest.mark.parametrize("length", [0, 1, 10**6 + 1, 2**40, 2**64 - 1])
def test_a_header_longer_than_ours_is_not_even_read(tmp_path, length):
    file = tmp_path / "long.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", length))
        stream.truncate(2 * 10**6)
    with pytest.raises(UserError, match=r"long\.safetensors: damaged"):
        load(file)


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("not one of these at all")
    for name in ("nothing", "text.safetensors", ".", "x" * 300):
        with pytest.raises(UserError):
            load(tmp_path / name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused_and_nothing_else(honest, tmp_path, place, wrong):
    content = bytearray(honest.read_bytes())
    at = place % (len(content) // 2)  # most of the first half is the header
    content[at : at + len(wrong)] = wrong
    file = tmp_path / "changed.safetensors"
    file.write_bytes(content)
    with suppress(UserError):
        load(file)
