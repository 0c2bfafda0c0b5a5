"""One run in several processes: the same metrics as in one, and an end of all whatever happens to one of them.

`pytest tests/cluster/test_processes.py --cluster -n 0`; starts torchrun on loopback.
"""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.command import NO_NETWORK, TINY, TRAIN, results, wait_until

LONG = (*TINY, "data.images=7000", "trainer.max_epochs=2000", "checkpoint.every_n_steps=20")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(autouse=True)
def _only_with_cluster(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--cluster"):
        pytest.skip("several processes are started with --cluster")


def start(folder: Path, *overrides: str, torchrun: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
    """``python train.py``, or torchrun with those arguments, in ``folder``; its output goes to out.txt."""
    launcher = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
    folder.mkdir(exist_ok=True)
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, *launcher, str(TRAIN), "device=cpu", *overrides],
            cwd=folder, env={**os.environ, **NO_NETWORK, **ENVIRONMENT}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip


def run(folder: Path, *overrides: str, torchrun: tuple[str, ...] = ()) -> str:
    """What it printed until its end, and its exit code."""
    code = start(folder, *overrides, torchrun=torchrun).wait(300)
    return f"{(folder / 'out.txt').read_text()}\nexit code {code}"


def others(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that it started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_epoch(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    assert wait_until(lambda: list(folder.glob("**/metrics.csv")), process), (folder / "out.txt").read_text()


def assert_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").is_file() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/cmdline").is_file()]


def rows(run_dir: Path) -> list[dict[str, float]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    found = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in found.items() if name.startswith("predictor.")}


@pytest.mark.parametrize("model", ["mnist", "fashion_mnist"])
def test_one_two_and_four_processes_have_the_same_losses_and_weights(tmp_path: Path, model: str) -> None:
    for count in (1, 2, 4):
        printed = run(tmp_path, *TINY, f"model={model}", f"trainer.devices={count}", f"hydra.run.dir={count}")
        assert printed.endswith("exit code 0"), printed
    for count in (2, 4):
        for one, several in zip(rows(tmp_path / "1"), rows(tmp_path / f"{count}"), strict=True):
            assert several == pytest.approx(one, abs=1e-5)
        for name, tensor in weights(tmp_path / "1").items():
            assert torch.allclose(tensor, weights(tmp_path / f"{count}")[name], rtol=0, atol=1e-5), name
        assert results(tmp_path / f"{count}")["tested"] == 200


def test_machines_need_no_shared_directory_and_a_resume_may_have_more_processes(tmp_path: Path) -> None:
    nodes = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29877")
    started = [start(tmp_path / name, *TINY, torchrun=nodes) for name in ("a", "b")]
    printed = "".join((tmp_path / name / "out.txt").read_text() for name in ("a", "b"))
    assert [process.wait(300) for process in started] == [0, 0], printed
    (run_dir,) = {file.parent for file in tmp_path.glob("**/config.yaml")}
    assert {file.name for file in run_dir.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt", "last.1.ckpt"}
    assert [name for name in ("a", "b") if (tmp_path / name / "outputs").exists()] == [
        run_dir.relative_to(tmp_path).parts[0]
    ]
    resumed = (f"resume={run_dir}", "trainer.max_epochs=3")
    printed = run(tmp_path / "c", *resumed, torchrun=("--standalone", "--nproc-per-node=4"))
    assert printed.endswith("exit code 0"), printed
    assert len(rows(run_dir)) == 3


def test_torchrun_onto_a_finished_run_is_refused_once_and_changes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, *TINY, "hydra.run.dir=run").endswith("exit code 0")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    printed = run(tmp_path, *TINY, "hydra.run.dir=run", "seed=1", torchrun=("--standalone", "--nproc-per-node=2"))
    assert printed.count("error: hydra.run.dir=run: holds a run already") == 1
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()} == before


def test_a_full_disk_ends_no_training_in_several_processes(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        process = start(tmp_path, *TINY, "trainer.devices=2", "hydra.run.dir=run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert process.wait(300) == 0, (tmp_path / "out.txt").read_text()
    assert results(tmp_path / "run")["epochs"] == 2
    assert results(tmp_path / "run")["unsaved"] == ["best.ckpt: File too large", "last.ckpt: File too large"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_first_process_ends_all_and_what_is_done_is_saved(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, *LONG, "trainer.devices=2", "hydra.run.dir=run")
    wait_for_epoch(tmp_path, process)
    children = others(process)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert "all of it saved. To continue" in (tmp_path / "out.txt").read_text()
    assert results(tmp_path / "run")["status"] == "interrupted"
    assert_ended(children)


def test_a_killed_process_ends_the_others_with_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, "trainer.devices=3", "data.batch_size=60", "hydra.run.dir=run")
    wait_for_epoch(tmp_path, process)
    children = others(process)
    os.kill(children[0], signal.SIGKILL)
    assert process.wait(60) == 1
    last = (tmp_path / "out.txt").read_text().splitlines()[-1]
    assert last.startswith("error: another process of this run was lost")
    assert results(tmp_path / "run")["status"] == "failed"
    assert_ended(children)


def test_ctrl_c_ends_all_while_one_hangs_and_none_outlives_a_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, "trainer.devices=2", "hydra.run.dir=run")
    wait_for_epoch(tmp_path, process)
    children = others(process)
    os.kill(children[0], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "resume=run" in (tmp_path / "out.txt").read_text().splitlines()[-1]
    assert_ended(children)
    process = start(tmp_path, "resume=run", "trainer.devices=2")
    while not others(process):
        time.sleep(0.1)
    children = others(process)
    process.kill()
    process.wait()
    assert_ended(children)


def test_torchrun_starts_a_run_again_from_its_last_checkpoint(tmp_path: Path) -> None:
    restarting = ("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    process = start(tmp_path, *LONG, "trainer.max_epochs=12", torchrun=restarting)
    wait_for_epoch(tmp_path, process)
    os.kill(others(process)[1], signal.SIGKILL)
    printed = (tmp_path / "out.txt").read_text()
    assert process.wait(300) == 0, printed
    assert "  continuing " in (tmp_path / "out.txt").read_text()
    (metrics,) = tmp_path.glob("outputs/runs/*/*/metrics.csv")
    assert [row["epoch"] for row in rows(metrics.parent)] == list(range(1, 13))


def test_strategies_with_no_own_tests_are_refused_before_training(tmp_path: Path) -> None:
    printed = run(tmp_path, *TINY, "trainer.devices=2", "trainer.strategy=ddp_spawn")
    assert printed.startswith("error: trainer.strategy=ddp_spawn")
    assert printed.endswith("exit code 2")


def test_batch_norm_has_the_statistics_of_all_processes(tmp_path: Path) -> None:
    """In float64: Adam divides by gradients that are zero but for rounding, such as those before batch norm."""
    few = (*TINY, "model=cifar10", "data.size=8", "data.images=260", "device.precision=64-true")
    for count in (1, 2):
        printed = run(tmp_path, *few, f"trainer.devices={count}", f"hydra.run.dir={count}")
        assert printed.endswith("exit code 0"), printed
    for one, several in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        assert several == pytest.approx(one, abs=1e-5)
    for name, tensor in weights(tmp_path / "1").items():
        assert torch.allclose(tensor, weights(tmp_path / "2")[name], rtol=0, atol=1e-5), name
