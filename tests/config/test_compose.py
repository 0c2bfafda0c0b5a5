"""From what was typed to one config: whatever is typed gives a config or a refusal of one line."""

import contextlib
import copy
import io
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smallvision import cli
from smallvision.config import resolve
from smallvision.config.compose import compose
from smallvision.config.schema import GROUPS
from smallvision.core.errors import UserError
from smallvision.training.checkpoint import read_checkpoint

Tree = dict[str, Any]


def resolve_config(*typed: str) -> Tree:
    """The config of that command line, as plain data."""
    forced = resolve.force(list(typed))
    composed = compose(forced)
    file = resolve.checkpoint_to_read(composed, forced)
    saved = read_checkpoint(file).config if file is not None else None
    return resolve.resolve_config(composed, forced, saved).to_dict()


def outcome(*typed: str) -> Tree | str:
    """The config, or the line that exit code 2 comes with; any other exception comes through."""
    made, message, codes = None, io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "exit", codes.append)
        with contextlib.redirect_stderr(message), cli.exit_codes():
            made = resolve_config(*typed)
    assert codes == ([2] if made is None else [])
    return message.getvalue() if made is None else made


def assert_config_or_line(*typed: str) -> None:
    result = outcome(*typed)
    if isinstance(result, str):
        assert result.startswith("error: ")
        assert len(result) > len("error: ") + 3
        assert len(result.splitlines()) == 1
    else:
        assert yaml.safe_load(yaml.safe_dump(result)) == result


# What is typed -------------------------------------------------------------------------------------------


def test_the_defaults_make_a_plain_config() -> None:
    made = resolve_config()
    assert (made["task"], made["seed"], made["data"]["name"], made["optimizer"]["lr"]) == (
        "fit", 0, "mnist", 0.001,
    )  # fmt: skip
    assert "hydra" not in made
    assert "experiment" not in made
    assert yaml.safe_load(yaml.safe_dump(made)) == made


@pytest.mark.parametrize(
    ("typed", "data"),
    [
        (("model=cifar10",), "cifar10"),
        (("model=fashion_mnist",), "fashion_mnist"),
        (("model=cifar10", "data=digits"), "digits"),
        (("data=digits", "model=cifar10"), "digits"),
    ],
    ids=" ".join,
)
def test_a_model_picks_its_data_unless_data_is_typed(typed: tuple[str, ...], data: str) -> None:
    assert resolve_config(*typed)["data"]["name"] == data


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("++seed=7", "seed", 7),
        ("seed=4294967295", "seed", 2**32 - 1),
        ("data_dir=${oc.env:SMALLVISION_TEST_WORD}", "data_dir", "a word"),
        ("data_dir='josé, 日本'", "data_dir", "josé, 日本"),
        ('data_dir="null"', "data_dir", "null"),
        ("resume=null", "resume", None),
        ("optimizer={lr:0.5}", "optimizer.lr", 0.5),
        ("optimizer.betas.0=0.5", "optimizer.betas", [0.5, 0.999]),
        ("optimizer.betas=[0,0.5]", "optimizer.betas", [0, 0.5]),
        ("trainer={}", "trainer.max_epochs", 10),
        ("model={}", "model.name", "mnist"),
        ("model=[linear]", "model.name", "linear"),
        ("+trainer.log_every_n_steps=5", "trainer.log_every_n_steps", 5),
        ("checkpoint.every_n_steps=5", "checkpoint.every_n_steps", 5),
        ("~experiment", "seed", 0),
    ],
)
def test_an_override_arrives(typed: str, key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLVISION_TEST_WORD", "a word")
    node: Any = resolve_config(typed)
    for name in key.split("."):
        node = node[name]
    assert node == value


REFUSED = {
    "data_dir=${oc.env:SMALLVISION_NOT_THERE}": "data_dir",
    "data_dir=${now:}": "data_dir",
    "data_dir=${data_dir}": "data_dir",
    "data_dir=${nope}": "data_dir",
    "data_dir=${nope:1}": "data_dir",
    "data_dir=${oc.dict.keys:trainer}": "data_dir",
    "data_dir=${": "data_dir",
    "data_dir=": "data_dir",
    "data_dir=null": "data_dir",
    "data_dir=3": "data_dir",
    "data_dir={a:1,a:2}": "data_dir",
    "data_dir=日本語": "data_dir",
    "data_dir='a": "data_dir",
    "data_dir=a,b": "data_dir",
    "seed=${run_suffix:}": "seed",
    "seed=???": "seed",
    "seed=": "seed",
    "seed='1'": "seed",
    "seed=true": "seed",
    "seed=1.0": "seed",
    "seed=4294967296": "seed",
    "seed=1e999": "seed",
    "seed=range(1,3)": "seed",
    "seed.x=1": "seed.x",
    f"seed={'9' * 5000}": "seed",
    f"seed={'[' * 300}{']' * 300}": "seed",
    "optimizer.lr=nan": "optimizer.lr",
    "optimizer.lr=1e999": "optimizer.lr",
    "optimizer.lr=1e-400": "optimizer.lr",
    f"optimizer.lr={'9' * 400}": "optimizer.lr",
    "optimizer.lr={a:3}": "optimizer.lr",
    "optimizer.lr=a=b=c": "optimizer.lr",
    "optimizer.betas.9=0.5": "optimizer.betas",
    "optimizer.betas={a:1}": "optimizer.betas",
    "optimizer={lr:3,nope:1}": "optimizer.nope",
    "optimizer=null": "optimizer=null",
    "optimizer=": "optimizer=",
    "optimizer=???": "optimizer",
    "optimizer=adam,sgd": "optimizer",
    "optimizer@data=adam": "optimizer@data",
    "+optimizer@data=adam": "data._target_",
    "+model@foo=mnist": "foo",
    "+optimizer=adam": "optimizer",
    "+group=x": "group",
    "+group.x=1": "group",
    "++nope=4": "nope",
    "+experiment={seed:3}": "experiment",
    "model=[]": "model",
    "model=../data/mnist": "model/../data/mnist",
    "model=../optimizer/adam": "model._target_",
    "model.name=../../x": "model.name",
    "model._target_=smallvision.models.nn.Module": "model._target_",
    "+device._target_=os.system": "device._target_",
    "+early_stopping._target_=os.system": "early_stopping._target_",
    "data=${seed}": "${seed}",
    "data={a:{b:[1]}}": "data.a",
    "task=": "task=",
    "task={}": "task",
    "trainer=null": "trainer",
    "trainer=[]": "trainer",
    "checkpoint=null": "checkpoint",
    "checkpoint={x:1}": "checkpoint",
    "+checkpoint.x=1": "checkpoint.x",
    "hydra=null": "hydra",
    "hydra.mode=nope": "hydra.mode",
    "=": "=",
    "+=": "+=",
    "~": "~",
    "~nope": "nope",
    "~optimizer.betas.0": "optimizer.betas.0",
    "@": "@",
    "": "",
    "ключ=1": "ключ",
}


@pytest.mark.parametrize(("typed", "named"), REFUSED.items(), ids=[typed[:40] for typed in REFUSED])
def test_what_cannot_be_is_refused_by_its_name(typed: str, named: str) -> None:
    line = outcome(typed)
    assert isinstance(line, str), f"{typed} was taken"
    assert line.startswith("error: ")
    assert len(line.splitlines()) == 1
    assert len(line) < 1000
    assert named in line


KEYS = st.sampled_from(
    [
        "seed", "data", "model", "optimizer", "scheduler", "device", "logger", "task", "experiment", "resume",
        "checkpoint", "data_dir", "trainer", "early_stopping", "hydra", "hydra.run.dir", "runs",
        "trainer.max_epochs", "trainer.devices", "data.val_size", "data.augmentation",
        "data.normalisation.mean", "data/mnist",
        "optimizer.lr", "optimizer.betas", "optimizer.betas.0", "optimizer._target_", "model.widths",
        "scheduler.warmup", "device.precision", "logger.name", "data.path", "nope", "trainer.nope",
        "optimizer@data", "a.b.c", "",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(str),
    st.sampled_from(
        ["", "null", "???", "{}", "[]", "[1,a]", "{a:1}", "{_target_:os.system}", "mnist", "adam", "fit",
         "test", "${seed}", "${oc.env:HOME}", "${now:%Y}",
         "${trainer}", "${nope}", "1,2", "'x'", "~", "a=b", "x\ny"]
    ),
    st.text(max_size=8),
)  # fmt: skip
OVERRIDES = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(["", "", "+", "++", "~"]), KEYS, VALUES),
    st.builds("{}{}".format, st.sampled_from(["", "~"]), KEYS),
    st.text(max_size=12),
)


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(OVERRIDES, min_size=1, max_size=3))
@pytest.mark.filterwarnings("ignore")
def test_anything_typed_gives_a_config_or_one_line(typed: list[str]) -> None:
    assert_config_or_line(*typed)


# A run that is continued ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config_yaml() -> str:
    """Of a run of choices that are not the defaults."""
    kept = resolve_config(
        "model=linear", "data=digits", "optimizer=sgd", "optimizer.lr=0.25", "seed=9", "trainer.max_epochs=3",
        "scheduler=linear", "scheduler.final_ratio=0.5", "checkpoint.every_n_steps=7", "data.batch_size=32",
    )  # fmt: skip
    del kept["resume"]
    return yaml.safe_dump(kept, sort_keys=False)


@pytest.fixture
def run_dir(tmp_path: Path, config_yaml: str) -> Path:
    """A run's folder with that config."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(config_yaml)
    return folder


def kept(run_dir: Path) -> dict[str, Any]:
    return yaml.safe_load((run_dir / "config.yaml").read_text())


def test_a_continued_run_keeps_its_own_config(run_dir: Path) -> None:
    assert resolve_config(f"resume={run_dir}") == {**kept(run_dir), "resume": str(run_dir)}


def test_typed_keys_win_over_the_runs_and_the_rest_stays(run_dir: Path) -> None:
    typed = (
        "trainer.max_epochs=20",
        "checkpoint.every_n_steps=3",
        "data_dir=elsewhere",
    )
    expected = kept(run_dir) | {"resume": str(run_dir), "data_dir": "elsewhere"}
    expected["trainer"]["max_epochs"] = 20
    expected["checkpoint"]["every_n_steps"] = 3
    assert resolve_config(f"resume={run_dir}", *typed) == expected


def test_an_added_trainer_key_is_taken_up(run_dir: Path) -> None:
    made = resolve_config(f"resume={run_dir}", "+trainer.log_every_n_steps=5")
    assert made["trainer"] == {**kept(run_dir)["trainer"], "log_every_n_steps": 5}


@pytest.mark.parametrize(
    "typed", [("scheduler=one_cycle",), ("scheduler=cosine", "scheduler.final_ratio=0.25")], ids=" ".join
)
def test_a_typed_group_replaces_the_whole_section_of_a_run_that_is_done_again(
    run_dir: Path, typed: tuple[str, ...]
) -> None:
    made = resolve_config(f"rerun={run_dir}", *typed)
    assert made["scheduler"] == resolve_config(*typed)["scheduler"] != kept(run_dir)["scheduler"]
    assert {key: made[key] for key in ("optimizer", "seed", "data")} == {
        key: kept(run_dir)[key] for key in ("optimizer", "seed", "data")}  # fmt: skip
    assert resolve_config(f"rerun={run_dir}", "optimizer=adam", "seed=1")["optimizer"]["name"] == "adam"


@pytest.mark.parametrize(
    "typed",
    ["optimizer.momentun=0.5", "optimizer.betas.0=0.5", "model.widths=[1,2]", "nope=1", "checkpoint.nope=1"],
)
def test_a_key_that_the_run_does_not_have_is_refused(run_dir: Path, typed: str) -> None:
    with pytest.raises(UserError, match=typed.split("=")[0]):
        resolve_config(f"resume={run_dir}", typed)


@pytest.mark.parametrize(
    "typed",
    ["model=mnist", "model.name=x", "seed=1", "data=mnist", "data={name:mnist}", "data.name=mnist",
     "data._target_=smallvision.data.standard.mnist", "++seed=2", "~model", "task=fit"],
)  # fmt: skip
def test_model_seed_and_data_stay_in_a_continued_run(run_dir: Path, typed: str) -> None:
    with pytest.raises(UserError, match=typed.lstrip("~+").split("=")[0].split(".")[0]):
        resolve_config(f"resume={run_dir}", typed)


MARK = "MARK"
NAMES = "abcdefghi"
HOSTILE_YAML = {
    "a python tag": f"!!python/object/apply:os.mkdir ['{MARK}']",
    "a python tag within": f"seed: !!python/object/apply:os.mkdir ['{MARK}']",
    "an object": "!!python/object/new:pathlib.Path {}",
    "empty": "",
    "a list": "[1, 2]",
    "a word": "hello",
    "no YAML": "a: [",
    "no text": "\x00\x01",
    "unclosed": "[" * 5000,
    "a date that is none": "!!timestamp nope",
    "an int that is none": "!!int ''",
    "a bool that is none": "!!bool nope",
    "only a seed": "seed: 3",
    "endless": "&a {trainer: *a, early_stopping: *a, data: *a, model: *a, optimizer: *a, scheduler: *a,"
    " device: *a, logger: *a}",
    "huge": "\n".join(
        [
            "a: &a [x, x, x, x, x, x, x, x, x]",
            *(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in itertools.pairwise(NAMES)),
            "seed: *i",
            *(f"{section}: {{}}" for section in ("trainer", "early_stopping", *GROUPS)),
        ]
    ),
}


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML.keys())
def test_a_hostile_config_file_is_refused_and_runs_nothing(run_dir: Path, tmp_path: Path, text: str) -> None:
    mark = tmp_path / "mark"
    (run_dir / "config.yaml").write_text(text.replace(MARK, str(mark)))
    with pytest.raises(UserError) as refused:
        resolve_config(f"resume={run_dir}")
    assert 0 < len(str(refused.value)) < 2000
    assert not mark.exists()


def test_a_config_file_in_another_encoding_is_refused(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(UserError, match=r"config\.yaml"):
        resolve_config(f"resume={run_dir}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "nine"),
        ("seed", [1]),
        ("trainer", None),
        ("trainer", []),
        ("trainer.max_epochs", "many"),
        ("data", "mnist"),
        ("data.val_size", 1.5),
        ("data.name", "../../x"),
        ("data.name", "${oc.env:HOME}"),
        ("data.augmentation", []),
        ("data.augmentation", {"zoom": 1}),
        ("data._target_", "os.system"),
        ("model", None),
        ("model._target_", "subprocess.run"),
        ("model._target_", "torch.load"),
        ("model._target_", ["smallvision.models.Linear"]),
        ("model._target_", None),
        ("optimizer._target_", "torch.hub.load"),
        ("optimizer.lr", "1"),
        ("scheduler._target_", "smallvision.training.schedules._warmed"),
        ("logger._target_", "builtins.eval"),
        ("logger.name", {}),
        ("device.name", "tpu"),
        ("device", {}),
    ],
)
def test_a_config_file_with_a_wrong_value_is_refused(run_dir: Path, key: str, value: Any) -> None:
    changed = kept(run_dir)
    node = changed
    for name in key.split(".")[:-1]:
        node = node[name]
    node[key.split(".")[-1]] = value
    (run_dir / "config.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(UserError):
        resolve_config(f"resume={run_dir}")


@pytest.mark.parametrize(
    "key",
    ["data", "model", "optimizer", "scheduler", "device", "logger", "trainer", "early_stopping", "data.name",
     "data.val_size", "data.batch_size", "data.augmentation", "model._target_", "optimizer.lr", "logger.name",
     "logger._target_", "device.threads"],
)  # fmt: skip
def test_a_config_file_that_lacks_something_is_refused(run_dir: Path, key: str) -> None:
    changed = kept(run_dir)
    node = changed
    for name in key.split(".")[:-1]:
        node = node[name]
    del node[key.split(".")[-1]]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(UserError, match=rf"{key}|config of a run"):
        resolve_config(f"resume={run_dir}")


def test_a_file_does_not_choose_what_is_done(run_dir: Path) -> None:
    extra = {"resume": "/elsewhere", "task": "test"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(kept(run_dir) | extra))
    with pytest.raises(UserError, match="a run of task=test, not a training"):
        resolve_config(f"resume={run_dir}")
    (run_dir / "config.yaml").write_text(yaml.safe_dump(kept(run_dir) | extra | {"task": "fit"}))
    made = resolve_config(f"resume={run_dir}")
    assert (made["resume"], made["task"]) == (str(run_dir), "fit")


@pytest.mark.parametrize("key", ["hydra", "nope"])
def test_a_config_file_with_a_key_that_no_run_has_is_refused(run_dir: Path, key: str) -> None:
    (run_dir / "config.yaml").write_text(yaml.safe_dump(kept(run_dir) | {key: {"run": {"dir": "/"}}}))
    with pytest.raises(UserError, match=f"{key}: no such key"):
        resolve_config(f"resume={run_dir}")


# A checkpoint that is tested -----------------------------------------------------------------------------


@pytest.fixture
def saved(run_dir: Path) -> dict[str, Any]:
    ours = {"format": 1, "config": kept(run_dir), "shape": [1, 28, 28], "classes": ["a"], "mean": [0.0]}
    identity = {"name": "a", "source": "b", "fingerprint": "c"}
    counts = {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.6.0"}
    return {
        "state_dict": {},
        **counts,
        "smallvision": ours | {"std": [1.0], "data": identity, "position": None},
    }


def test_a_checkpoint_says_its_model_and_data(tmp_path: Path, saved: dict[str, Any]) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(saved, file)
    made = resolve_config("task=test", f"checkpoint={file}", "device=cpu")
    own = saved["smallvision"]["config"]
    assert (made["task"], made["checkpoint"], made["device"]["name"]) == ("test", str(file), "cpu")
    assert {key: made[key] for key in ("model", "data", "seed", "optimizer")} == {
        key: own[key] for key in ("model", "data", "seed", "optimizer")
    }


def test_a_checkpoint_can_be_tested_on_other_data(tmp_path: Path, saved: dict[str, Any]) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(saved, file)
    made = resolve_config("task=test", f"checkpoint={file}", "data=shapes", "data.size=12")
    assert made["data"] == resolve_config("data=shapes", "data.size=12")["data"]
    assert made["model"] == saved["smallvision"]["config"]["model"]


@pytest.mark.parametrize("typed", ["model=linear", "seed=3", "optimizer=sgd", "model.name=x"])
def test_a_checkpoints_model_cannot_be_changed(tmp_path: Path, saved: dict[str, Any], typed: str) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(saved, file)
    with pytest.raises(UserError, match="the checkpoint fixes it"):
        resolve_config("task=test", f"checkpoint={file}", typed)


@pytest.mark.parametrize(
    "changes",
    [{"model": {"name": "x", "_target_": "os.system"}}, {"data": None}, {"optimizer": {}}, {"seed": "x"}],
    ids=["target", "no data", "empty optimizer", "seed"],
)
def test_a_hostile_checkpoints_config_is_refused(
    tmp_path: Path, saved: dict[str, Any], changes: dict[str, Any]
) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(saved | {"smallvision": saved["smallvision"] | {"config": kept_with(saved, changes)}}, file)
    with pytest.raises(UserError):
        resolve_config("task=test", f"checkpoint={file}")


def kept_with(saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(saved["smallvision"]["config"]), **changes}
