"""Whole sweeps through the real command line, and what befalls them.

`pytest tests/sweeps/test_sweep.py --sweep-kills 10 -n 0` kills a sweep of 12 trials at ten instants.
"""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command import NO_NETWORK, TRAIN, figures, results, start
from helpers.comparison import same_files
from helpers.forks import train

from smallvision.sweeps.collect import read

SMALL = ("data=shapes", "data.images=600", "data.size=12", "data.val_size=60", "data.test_images=50",
         "trainer.max_epochs=2")  # fmt: skip
ENVIRONMENT = {**os.environ, **NO_NETWORK, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three learning rates, one of them impossible, with two seeds, side by side; the winner tested."""
    folder = tmp_path_factory.mktemp("swept")
    return folder, train(folder, "-m", *SMALL, "optimizer.lr=-1,0.01,0.0001", "seed=3,4",
                         "sweep.workers=2", "sweep.name=lr", "sweep.test_best=true")  # fmt: skip


def test_a_sweep_runs_everything_that_can_be_run(swept):
    folder, process = swept
    assert process.returncode == 0, process.stderr
    sweep = folder / "outputs/sweeps/lr"
    assert {file.parent.name for file in sweep.glob("*/results.json")} == {
        "1-seed3", "1-seed4", "2-seed3", "2-seed4", "test-1-seed3", "test-1-seed4"}  # fmt: skip
    assert "trial 0 failed: optimizer.lr=-1: must be a number above 0" in process.stdout
    with (sweep / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["n"], row["optimizer.lr"]) for row in rows] == [
        ("1", "done", "2", "0.01"), ("2", "done", "2", "0.0001"), ("0", "failed", "0", "-1")]  # fmt: skip
    found = [results(sweep / f"1-seed{seed}")["metrics"]["val/acc"] for seed in (3, 4)]
    assert float(rows[0]["val/acc"]) == pytest.approx(sum(found) / 2)
    assert (sweep / "sweep.html").stat().st_size > 1000


def test_the_winner_is_a_command_line_and_is_tested_once(swept):
    folder, process = swept
    assert re.search(r"python train.py -m data=shapes .*optimizer.lr=0.01 seed=3,4$", process.stdout, re.M)
    sweep = folder / "outputs/sweeps/lr"
    for seed in (3, 4):
        assert results(sweep / f"1-seed{seed}")["metrics"]["test/acc"] is None
        assert results(sweep / f"test-1-seed{seed}")["metrics"]["test/acc"] is not None
    assert "n = 2" in re.findall(r"^test .*", process.stdout, re.M)[-1]


def test_a_run_of_a_sweep_is_the_run_that_its_command_line_gives(swept, tmp_path):
    folder, _ = swept
    alone = train(tmp_path, *SMALL, "optimizer.lr=0.01", "seed=4", "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    sweep = folder / "outputs/sweeps/lr/1-seed4"
    assert (tmp_path / "alone/metrics.csv").read_bytes() == (sweep / "metrics.csv").read_bytes()


def test_the_same_command_again_runs_nothing_twice(swept):
    folder, process = swept
    sweep = folder / "outputs/sweeps/lr"
    before = {file: file.stat().st_mtime_ns for file in sweep.glob("*/results.json")}
    again = train(folder, "-m", *SMALL, "optimizer.lr=-1,0.01,0.0001", "seed=3,4", "sweep.workers=2",
                  "sweep.name=lr", "sweep.test_best=true")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "3 of 3 trials are over already" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in sweep.glob("*/results.json")} == before
    assert again.stdout.splitlines()[-3:] == process.stdout.splitlines()[-3:]


def test_a_changed_space_under_the_same_name_is_refused(swept):
    folder, _ = swept
    process = train(folder, "-m", *SMALL, "optimizer.lr=-1,0.02", "seed=3,4", "sweep.name=lr")
    assert process.returncode == 2
    assert "space of optimizer.lr was -1,0.01,0.0001 and is now -1,0.02" in process.stderr


def test_a_report_of_a_sweep_is_drawn_anew(swept):
    folder, _ = swept
    sweep = folder / "outputs/sweeps/lr"
    table = (sweep / "leaderboard.csv").read_text()
    (sweep / "leaderboard.csv").unlink()
    (sweep / "sweep.html").unlink()
    process = train(folder, "task=report", "runs=outputs/sweeps/lr")
    assert process.returncode == 0, process.stderr
    assert process.stdout == table == (sweep / "leaderboard.csv").read_text()
    assert (sweep / "sweep.html").is_file()


def test_seeds_alone_are_repetitions_that_are_tested_like_any_run(tmp_path):
    process = train(tmp_path, "-m", *SMALL, "trainer.max_epochs=1", "sweep.seeds=2", "hydra.sweep.dir=two")
    assert process.returncode == 0, process.stderr
    accuracies = [results(tmp_path / f"two/0-seed{seed}")["metrics"]["test/acc"] for seed in (0, 1)]
    assert f"{sum(accuracies) / 2:.4f}" in re.findall(r"^test .*", process.stdout, re.M)[-1]
    assert "n = 2" in process.stdout


def killed_after(folder: Path, seconds: float, *typed: str) -> int:
    """The exit code of a sweep whose whole process group is killed after that time."""
    with (folder / "out.txt").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), "-m", *typed],
            cwd=folder, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def test_a_sweep_killed_at_random_instants_ends_where_an_undisturbed_one_ends(tmp_path, request):
    kills = request.config.getoption("--sweep-kills")
    long = kills > 3
    typed = [*SMALL, "data.images=1500", "optimizer.lr=0.1,0.03,0.01,0.003", "sweep.workers=2",
             "checkpoint.every_n_steps=7",
             f"trainer.max_epochs={12 if long else 4}"]  # fmt: skip
    typed += ["data.batch_size=16,32,64"] if long else []
    whole = train(tmp_path, "-m", *typed, "hydra.sweep.dir=whole")
    assert whole.returncode == 0, whole.stderr
    undisturbed = read(tmp_path / "whole")
    assert len(undisturbed.trials) == (12 if long else 4)
    instants, killed, sweeps = random.Random(kills), 0, 0
    while killed < kills:
        sweeps += 1
        cut = f"cut{sweeps}"
        code = -9
        while code == -9 and killed < kills:
            # Most of them when something trains, which is 3 seconds from the start.
            code = killed_after(tmp_path, instants.uniform(1, 8), *typed, f"hydra.sweep.dir={cut}")
            assert code in (0, -9), (tmp_path / "out.txt").read_text()
            killed += code == -9
        if code == -9:
            process = train(tmp_path, "-m", *typed, f"hydra.sweep.dir={cut}")
            assert process.returncode == 0, process.stderr
        view = read(tmp_path / cut)
        assert [trial.number for trial in view.of("done")] == [*range(len(undisturbed.trials))]
        assert [trial.values for trial in view.trials] == [trial.values for trial in undisturbed.trials]
        for trial in view.trials:
            assert same_files(tmp_path / "whole" / f"{trial.number}", tmp_path / cut / f"{trial.number}")
    print(f"{killed} kills in {sweeps} sweeps of {len(undisturbed.trials)} trials: all as undisturbed")


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_worker_that_is_killed_costs_its_trial_only_and_ctrl_c_ends_all_tidily(tmp_path):
    typed = [*SMALL, "data.images=3000", "optimizer.lr=0.01,0.02,0.03", "sweep.workers=2", "sweep.name=w",
             "trainer.max_epochs=400"]  # fmt: skip
    process = start(tmp_path, "-m", *typed)
    sweep = tmp_path / "outputs/sweeps/w"
    wait_for(lambda: len([*sweep.glob("*/checkpoints/last.ckpt")]) == 2, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for(lambda: (sweep / "2/checkpoints/last.ckpt").is_file(), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    view = read(sweep)
    (lost,) = view.of("failed")
    assert lost.reason.startswith("a worker was killed by SIGKILL, perhaps by the system for want of memory")
    assert len(view.of("interrupted")) == 2
    for trial in view.of("interrupted"):
        assert results(sweep / f"{trial.number}")["status"] == "interrupted"
    assert "interrupted; the same command continues it" in out
    assert not list(sweep.rglob(".*.part"))


def test_a_pruned_run_ends_tidily(tmp_path):
    process = train(tmp_path, "-m", *SMALL, "trainer.max_epochs=3", "optimizer.lr=0.01,0.009,1e-9",
                    "sweep.pruner=median", "+sweep.pruner_options.n_startup_trials=2",
                    "hydra.sweep.dir=p")  # fmt: skip
    assert process.returncode == 0, process.stderr
    cut = results(tmp_path / "p/2")
    assert (cut["status"], cut["epochs"], cut["metrics"]["test/acc"]) == ("pruned", 1, None)
    assert cut["metrics"]["val/acc"] is not None
    assert "2 done, 1 pruned" in process.stdout
    assert figures(tmp_path / "p/0")["status"] == "completed"


def test_workers_can_be_jobs_on_one_shared_store(tmp_path):
    process = train(tmp_path, "-m", *SMALL, "trainer.max_epochs=1", "optimizer.lr=0.01,0.001",
                    "sweep.workers=2", "sweep.launcher=slurm", "+sweep.launcher_options.cluster=local",
                    "+sweep.launcher_options.timeout_min=5", f"sweep.storage=sqlite:///{tmp_path}/all.db",
                    "hydra.sweep.dir=jobs")  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "2 of 2 trials: 2 done" in process.stdout
    report = train(tmp_path, "task=report", "runs=jobs", f"storage=sqlite:///{tmp_path}/all.db")
    assert report.returncode == 0, report.stderr
    assert report.stdout == (tmp_path / "jobs/leaderboard.csv").read_text()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimizer.lr=interval(0,1)"], "a grid cannot count through an interval"),
        (["optimizer.lr=-1,-2"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer.lrr=1,2"], "optimizer.lrr: no such key. Did you mean 'optimizer.lr'?"),
        (["optimizer=adm,sdg"], "optimizer=adm: no such choice. Did you mean 'adam'?"),
        (["sweep=tpe"], "sweep=tpe: nothing to search"),
        (["sweep.metric=test/acc", "seed=0,1"], "judged by its validation images, never by others"),
        (["seed=0,x"], "seeds are whole numbers"),
        (["seed=0,1", "sweep.seeds=2"], "lists the seeds; sweep.seeds=2 counts them"),
        (["sweep.workers=1,2"], "one choice for the whole sweep"),
        (["sweep.workers=0", "seed=0,1"], "sweep.workers=0: must be null or a whole number from 1 to 1024"),
        (["task=test,fit"], "task: a sweep is of fits"),
        (["resume=a,b"], "resume: the same sweep command again continues a sweep"),
        (["data.val_size=0", "seed=0,1"], "a sweep is judged by validation images"),
        (["trainer.devices=2", "seed=0,1"], "use sweep.workers for more at once"),
        (["sweep.pruner=threshold", "seed=0,1"], "sweep.pruner_options: "),
        (["sweep.storage=redis://x", "seed=0,1"], "redis is not supported"),
    ],
)  # fmt: skip
def test_what_no_sweep_could_go_by_is_refused_at_once(tmp_path, typed, said):
    process = train(tmp_path, "-m", *typed)
    assert process.returncode == 2, process.stdout
    assert said in process.stderr
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1


def test_a_kept_sweep_is_an_experiment(tmp_path):
    process = train(tmp_path, "-m", "experiment=mnist_sweep", *SMALL, "data.size=28", "trainer.max_epochs=1",
                    "sweep.trials=2", "data.batch_size=50", "hydra.sweep.dir=kept")  # fmt: skip
    assert process.returncode == 0, process.stderr
    view = read(tmp_path / "kept")
    assert (view.method, len(view.of("done"))) == ("tpe", 2)
    assert set(view.space) == {"optimizer.lr", "scheduler.warmup"}, "what is typed is not searched"
    assert all(3e-4 <= float(trial.params["optimizer.lr"]) <= 3e-2 for trial in view.trials)


def test_a_choice_of_sweeps_without_m_is_refused(tmp_path):
    process = train(tmp_path, "sweep.workers=2")
    assert process.returncode == 2
    assert process.stderr == "error: sweep.workers: goes with a sweep: python train.py -m ...\n"
