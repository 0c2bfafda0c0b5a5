"""Every key has a rule, and what is shipped obeys it."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallvision.config import schema as rules
from smallvision.config.targets import COMMON, build, resolve
from smallvision.core.errors import UserError
from smallvision.training.factory import DATA_CHOICES

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(file for file in CONFIGS.rglob("*.yaml") if "hydra" not in file.parts)
# What only the running program knows.
RUNTIME = {
    "data": {"data_dir"},
    "model": {"channels", "size", "classes"},
    "optimizer": {"params"},
    "scheduler": set(),
    "logger": {"save_dir"},
}
SECTIONS = [file for file in FILES if file.parent.name in RUNTIME]


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


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_shipped_key_has_a_rule_that_its_value_obeys(file: Path) -> None:
    keys = own_keys(file)
    assert keys
    for key, value in keys.items():
        rule = rules.rule_for(key)
        assert rule is not None, f"{key} has no rule"
        if value != "???":
            assert rule.holds(value), f"{key}={value}: must be {rule.words}"


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
        assert partner.keys() - COMMON == theirs.keys() - RUNTIME[section]
    given = content.keys() - {"defaults", *COMMON, *(DATA_CHOICES if section == "data" else ())}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    assert takes_any or given <= known
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    needed -= {name for name in known if parameters[name].kind is inspect.Parameter.VAR_KEYWORD}
    assert needed <= given


@pytest.mark.parametrize("file", SECTIONS, ids=name_of)
def test_a_file_is_called_as_its_choice_is(file: Path) -> None:
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["name"] == file.stem


@pytest.mark.parametrize("file", [one for one in SECTIONS if one.parent.name == "scheduler"], ids=name_of)
def test_every_shipped_schedule_can_be_built(file: Path) -> None:
    factor = build("scheduler", yaml.safe_load(file.read_text(encoding="utf-8")))
    assert 0 <= factor(0.5) <= 1


INF, NAN = math.inf, math.nan
HUGE = 10**400


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.whole(1), [1, 2**31 - 1], [0, -1, 2**31, 1.0, True, "1", None, [], {}]),
        (rules.whole(0, 5), [0, 5], [-1, 6, False]),
        (rules.number(), [0, -1.5, 1e300], [NAN, INF, -INF, HUGE, -HUGE, "1", True, None]),
        (rules.number(0, 1), [0, 1, 0.5], [-0.1, 1.1, NAN]),
        (rules.number(above=0), [1e-300, 3], [0, -1, INF]),
        (rules.number(0, below=1), [0, 0.999], [1, 1.0, -0.5]),
        (rules.one_of("auto", 32, None), ["auto", 32, None], ["32", 32.0, "x", True, []]),
        (rules.one_of(1), [1], [True, 1.0]),
        (rules.many(rules.whole(1), length=2), [[1, 2]], [[1], [1, 2, 3], [0, 1], (1, 2), "12", None, 1]),
        (rules.many(rules.whole(1), least=1), [[1], [1, 2]], [[], {}, [None]]),
        (rules.many(rules.whole(1)), [[], [1]], [[[]]]),
        (rules.truth, [True, False], [0, 1, "true", None]),
        (rules.text, ["a", " a b "], ["", "  ", 1, None, []]),
        (rules.null, [None], ["null", 0, False]),
        (rules.duration, ["00:01:30:00"], ["1:30", "00:00:00", 90, None, "00:00:00:00:00"]),
        (rules.batches, [1, 100, 0.5, 1.0], [0, 0.0, 1.5, -1, True, "all"]),
        (rules.plain_name, ["mnist", "my_net-2", "größe"], ["", "../x", "a/b", "${x}", "a b", ".", None, 3]),
        (rules.null | rules.whole(1), [None, 1], [0, "x"]),
    ],
)
def test_a_rule_takes_what_it_says_and_nothing_else(rule: rules.Rule, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not rule.holds(value)] == []
    assert [value for value in bad if rule.holds(value)] == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (rules.whole(1), "a whole number, at least 1"),
        (rules.whole(0, 9), "a whole number from 0 to 9"),
        (rules.number(), "a number"),
        (rules.number(0, below=1), "a number at least 0 and below 1"),
        (rules.one_of(None, "norm"), "one of null, norm"),
        (rules.null | rules.whole(1), "null or a whole number, at least 1"),
    ],
)
def test_a_rule_says_what_it_takes(rule: rules.Rule, words: str) -> None:
    assert rule.words == words


def shipped() -> dict[str, Any]:
    """The config of a run by default, without Hydra."""

    def section(group: str, name: str) -> dict[str, Any]:
        content = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if key != "defaults"}

    config = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in ("defaults", "hydra")}
    chosen = {"data": "mnist", "model": "mnist", "optimizer": "adam", "scheduler": "cosine", "device": "auto"}
    groups = {group: section(group, name) for group, name in {**chosen, "logger": "csv"}.items()}
    return {**config, **groups, "task": "fit", "checkpoint": {"every_n_steps": None}}


def test_the_shipped_config_is_taken() -> None:
    config = shipped()
    rules.check(config)
    assert config == shipped()


@pytest.mark.parametrize("key", rules.NEEDED)
def test_a_key_that_a_run_needs_cannot_be_missing(key: str) -> None:
    config = shipped()
    *path, name = key.split(".")
    node = config
    for step in path:
        node = node[step]
    del node[name]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        rules.check(config)


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
        ("data.augmentation.rotate", 181, "data.augmentation.rotate=181: must be a number at least 0 and at"),
        ("data.augmentation.scale", 1, "data.augmentation.scale=1: must be a number at least 0 and below 1"),
        ("data.augmentation.flip", "sometimes", "must be true or false or one of alternating"),
        ("data.normalisation.whiten", 9, "data.normalisation.whiten=9: must be a whole number from 0 to 8"),
        ("loss", 0.1, "loss=0.1: must be a section"),
        ("loss.label_smoothing", 1, "loss.label_smoothing=1: must be a number at least 0 and below 1"),
        ("loss.smoothing", 0.1, "Did you mean 'loss.label_smoothing'?"),
        ("tta.shift", -1, "tta.shift=-1: must be a whole number, at least 0"),
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
        rules.check(config)
    assert said in str(refused.value)


@pytest.mark.parametrize("section", ["trainer", "data", "model", "optimizer", "scheduler", "logger"])
def test_sections_with_a_target_may_have_keys_of_their_own(section: str) -> None:
    config = shipped()
    config[section]["my_own"] = {"deep": [1]}
    rules.check(config)
    assert rules.rule_for(f"{section}.my_own") is None
