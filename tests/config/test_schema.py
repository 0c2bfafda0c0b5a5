"""Every key has a rule, and what is shipped obeys it."""

import copy
import dataclasses
import inspect
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import pytest
import yaml
from omegaconf import OmegaConf

from smallvision.config import schema
from smallvision.config.fields import Length, Range, accepts, describe, section_of
from smallvision.config.schema import Config
from smallvision.config.targets import NOT_ARGUMENTS, instantiate, resolve
from smallvision.core.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(file for file in CONFIGS.rglob("*.yaml") if "hydra" not in file.parts)
# What only the running program knows.
RUNTIME = {
    "data": {"data_dir"},
    "model": {"channels", "size", "classes", "data_mean", "data_std"},
    "loss": {"weight", "size_average", "ignore_index", "reduce", "reduction"},
    "optimizer": {"params"},
    "scheduler": set(),
    "logger": {"save_dir"},
}
SECTIONS = [file for file in FILES if file.parent.name in RUNTIME and file.stem not in ("_base", "own")]


def leaves(prefix: str, node: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in node.items():
        found |= leaves(f"{prefix}{name}.", value) if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def own_keys(file: Path) -> dict[str, Any]:
    """Full keys and values of one file, without Hydra's own."""
    text = file.read_text(encoding="utf-8")
    content = {k: v for k, v in yaml.safe_load(text).items() if k not in ("defaults", "hydra")}
    everywhere = "@package _global_" in text.splitlines()[0] or file.parent == CONFIGS
    return leaves("" if everywhere else f"{file.parent.name}.", content)


def name_of(file: Path) -> str:
    return str(file.relative_to(CONFIGS))


def type_of(key: str) -> Any:
    """The annotation of a full key such as ``optimizer.lr``, None where it has none."""
    section: Any = Config if not key.startswith("sweep.") else schema.Sweep
    names = key.removeprefix("sweep.").split(".")
    for at, name in enumerate(names):
        known = {**section.key_types(), **section.extra_types()}
        if name not in known:
            return None
        inner = section_of(known[name])
        if inner is None or at == len(names) - 1:
            return dict if get_origin(known[name]) is dict and at < len(names) - 1 else known[name]
        section = inner
    return None


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_shipped_key_has_a_type_that_its_value_is_of(file: Path) -> None:
    keys = own_keys(file)
    assert keys
    for key, value in keys.items():
        annotation = type_of(key)
        assert annotation is not None, f"{key} has no type"
        if value != "???" and not str(value).startswith("${") and annotation is not dict:
            assert accepts(value, annotation), f"{key}={value}: must be {describe(annotation)}"


@pytest.mark.parametrize("file", SECTIONS, ids=name_of)
def test_every_shipped_key_is_an_argument_of_its_target(file: Path) -> None:
    section, content = file.parent.name, yaml.safe_load(file.read_text(encoding="utf-8"))
    if content["_target_"] is None:
        assert content == {"name": "csv", "_target_": None}
        return
    parameters = inspect.signature(resolve(section, content["_target_"])).parameters
    known = {name for name in parameters if name not in RUNTIME[section]}
    partner = content.pop("rest", None)  # of Muon
    if partner is not None:
        theirs = inspect.signature(resolve(section, partner["_target_"])).parameters
        assert partner.keys() - NOT_ARGUMENTS == theirs.keys() - RUNTIME[section]
    of_section = {"data": schema.Data, "loss": schema.Loss}
    given = content.keys() - {"defaults", *NOT_ARGUMENTS}
    given -= of_section[section].key_types().keys() if section in of_section else set()
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    assert takes_any or given <= known
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    needed -= {name for name in known if parameters[name].kind is inspect.Parameter.VAR_KEYWORD}
    assert needed <= given


@pytest.mark.parametrize("file", SECTIONS, ids=name_of)
def test_a_file_is_called_as_its_choice_is(file: Path) -> None:
    name = yaml.safe_load(file.read_text(encoding="utf-8"))["name"]
    assert name in (file.stem, f"${{oc.select:model.architecture,{file.stem}}}")


@pytest.mark.parametrize("file", [one for one in SECTIONS if one.parent.name == "scheduler"], ids=name_of)
def test_every_shipped_schedule_can_be_built(file: Path) -> None:
    factor = instantiate("scheduler", yaml.safe_load(file.read_text(encoding="utf-8")))
    assert 0 <= factor(0.5) <= 1


INF, NAN = math.inf, math.nan
HUGE = 10**400
Number = Annotated[float, Range()]


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (schema.Count, [1, 2**31 - 1], [0, -1, 2**31, 1.0, True, "1", None, [], {}]),
        (Annotated[int, Range(0, 5)], [0, 5], [-1, 6, False]),
        (float, [0, -1.5, 1e300], [NAN, INF, -INF, HUGE, -HUGE, "1", True, None]),
        (schema.Fraction, [0, 1, 0.5], [-0.1, 1.1, NAN]),
        (schema.Positive, [1e-300, 3], [0, -1, INF]),
        (schema.FractionBelowOne, [0, 0.999], [1, 1.0, -0.5]),
        (Literal["auto", 32] | None, ["auto", 32, None], ["32", 32.0, "x", True, []]),
        (Literal[1], [1], [True, 1.0]),
        (Annotated[list[schema.Count], Length(exact=2)], [[1, 2]], [[1], [1, 2, 3], [0, 1], (1, 2), "12", None, 1]),
        (Annotated[list[schema.Count], Length(1)], [[1], [1, 2]], [[], {}, [None]]),
        (list[schema.Count], [[], [1]], [[[]]]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["a", " a b "], ["", "  ", 1, None, []]),
        (type(None), [None], ["null", 0, False]),
        (schema.Duration, ["00:01:30:00"], ["1:30", "00:00:00", 90, None, "00:00:00:00:00"]),
        (schema.Batches, [1, 100, 0.5, 1.0], [0, 0.0, 1.5, -1, True, "all"]),
        (schema.Name, ["mnist", "my_net-2", "größe"], ["", "../x", "a/b", "${x}", "a b", ".", None, 3]),
        (schema.Count | None, [None, 1], [0, "x"]),
        (dict[str, str], [{}, {"a": "b"}], [{"a": 1}, [], None]),
    ],
)
def test_a_type_takes_what_it_describes_and_nothing_else(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not accepts(value, annotation)] == []
    assert [value for value in bad if accepts(value, annotation)] == []


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (schema.Count, "a whole number at least 1"),
        (Annotated[int, Range(0, 9)], "a whole number from 0 to 9"),
        (float, "a number"),
        (schema.FractionBelowOne, "a number at least 0 and below 1"),
        (Literal["value", "norm"], "one of value, norm"),
        (schema.Count | None, "null or a whole number at least 1"),
        (Annotated[list[schema.Count], Length(exact=2)], "a list of 2 entries, each a whole number at least 1"),
    ],
)
def test_a_type_describes_what_it_takes(annotation: Any, text: str) -> None:
    assert describe(annotation) == text


CHECKPOINT = {"every_n_steps": None, "every_n_minutes": 0.1, "keep": 2}


def shipped() -> dict[str, Any]:
    """The config of a run by default, without Hydra."""
    return copy.deepcopy(read_shipped())


@cache
def read_shipped() -> dict[str, Any]:
    def section(group: str, name: str) -> dict[str, Any]:
        files = [file for file in (CONFIGS / group / "_base.yaml", CONFIGS / group / f"{name}.yaml") if file.is_file()]
        content = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)))
        return {key: value for key, value in content.items() if key != "defaults"}

    config = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in ("defaults", "hydra", "sweep")}
    chosen = {
        "data": "mnist", "model": "mnist", "loss": "cross_entropy", "optimizer": "adam", "scheduler": "cosine",
        "module": "classifier", "device": "auto", "logger": "csv", "callbacks": "default",
    }  # fmt: skip
    groups = {group: section(group, name) for group, name in chosen.items()}
    return {**config, **groups, "task": "fit", "checkpoint": dict(CHECKPOINT)}


def test_a_config_becomes_the_same_tree_again() -> None:
    module = {**shipped()["module"], "mode": "max"}  # as val/acc asks for
    assert Config.from_dict(shipped()).to_dict() == {**shipped(), "resume": None, "module": module}


def keys_of(section: Any, prefix: str = "") -> Iterator[str]:
    """The keys that a section must have, at any depth."""
    for key, annotation in section.key_types().items():
        inner = section_of(annotation)
        field = section.fields()[key]
        if field.default is field.default_factory is dataclasses.MISSING:
            yield f"{prefix}{key}"
            if inner is not None and f"{prefix}{key}" != "optimizer.rest":
                yield from keys_of(inner, f"{prefix}{key}.")


@pytest.mark.parametrize("key", [key for key in keys_of(Config) if key != "optimizer.rest"])
def test_a_key_that_a_run_needs_cannot_be_missing(key: str) -> None:
    config = shipped()
    *path, name = key.split(".")
    node = config
    for step in path:
        node = node[step]
    del node[name]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        Config.from_dict(config)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer.lr", -1, "optimizer.lr=-1: must be a number above 0"),
        ("seed", None, "seed=null: must be"),
        ("seed", True, "seed=true: must be"),
        ("trainer.deterministic", 0, "trainer.deterministic=0: must be true or false or one of warn"),
        ("data.normalisation.std", [0.0], "data.normalisation.std=[0.0]: must be"),
        ("model", "mnist", "model=mnist: must be a section"),
        ("data.augmentation", None, "data.augmentation=null: must be a section"),
        ("seed", {"x": 1}, "seed={'x': 1}: must be"),
        ("nope", 1, "nope: no such key"),
        ("nope", {"x": 1}, "nope: no such key"),
        ("device.thread", 1, "device.thread: no such key. Did you mean 'device.threads'?"),
        ("data.augmentation.flop", True, "Did you mean 'data.augmentation.flip'?"),
        ("data.augmentation.rotation", 10, "data.augmentation.rotation: no such key"),
        ("data.augmentation.rotate", 181, "data.augmentation.rotate=181: must be a number from 0 to 180"),
        ("data.augmentation.scale", 1, "data.augmentation.scale=1: must be a number at least 0 and below 1"),
        ("data.augmentation.flip", "sometimes", "must be true or false or one of alternating"),
        ("data.normalisation.whiten", 9, "data.normalisation.whiten=9: must be a whole number from 0 to 8"),
        ("loss", 0.1, "loss=0.1: must be a section"),
        ("loss.label_smoothing", 1, "loss.label_smoothing=1: must be a number at least 0 and below 1"),
        ("tta.shift", -1, "tta.shift=-1: must be a whole number at least 0"),
        ("tta.flip", 1, "tta.flip=1: must be true or false"),
        ("tta.x", 1, "tta.x: no such key. Choices: flip, shift."),
        ("param_groups", None, "param_groups=null: must be a section"),
        ("param_groups.head", None, "param_groups.head=null: must be a section"),
        ("param_groups.head.lr", -1, "param_groups.head.lr=-1: must be null or a number at least 0"),
        ("param_groups.head.momentum", 0.5, "param_groups.head.momentum: no such key"),
        ("param_groups.heads", {"lr": 1}, "param_groups.heads"),
        ("optimizer.rest", {"_target_": "torch.optim.SGD", "lr": 0}, "optimizer.rest.lr=0: must be"),
        ("early_stopping.x", 1, "early_stopping.x: no such key. Choices: min_delta, patience."),
        ("checkpoint.x", 1, "checkpoint.x: no such key. Choices: every_n_minutes, every_n_steps, keep."),
    ],
)
def test_a_refusal_names_the_key_the_value_and_the_mend(key: str, value: Any, said: str) -> None:
    config = shipped()
    *path, name = key.split(".")
    node = config
    for step in path:
        node = node[step]
    node[name] = value
    with pytest.raises(UserError) as refused:
        Config.from_dict(config)
    assert said in str(refused.value)


@pytest.mark.parametrize("section", ["trainer", "data", "model", "optimizer", "scheduler", "logger"])
def test_sections_that_build_something_may_have_keys_of_their_own(section: str) -> None:
    config = shipped()
    config[section]["my_own"] = {"deep": [1]}
    assert getattr(Config.from_dict(config), section).extra["my_own"] == {"deep": [1]}


def test_a_changed_config_is_checked_too() -> None:
    config = Config.from_dict(shipped())
    assert config.updated({"trainer": {"max_epochs": 3}, "seed": 7}).trainer.max_epochs == 3
    assert config.trainer.max_epochs == 10
    with pytest.raises(UserError, match=r"trainer.max_epochs=0: must be"):
        config.updated({"trainer": {"max_epochs": 0}})
