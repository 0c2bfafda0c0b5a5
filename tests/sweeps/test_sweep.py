"""Whole sweeps through the real command line, and what happens to them.

`pytest tests/sweeps/test_sweep.py --sweep-kills 10 -n 0` kills a sweep of 12 trials at ten instants.
"""

import csv
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import command
from helpers.command import results, wait_until
from helpers.comparison import same_files
from helpers.forks import start, train
from helpers.run_files import a_run
from helpers.sweep_plans import SMALL
from helpers.sweeps import a_sweep, a_trial

from smallvision.sweeps.collect import read_sweep, write_report

SWEPT = (*SMALL, "checkpoint.every_n_steps=4", "optimizer.lr=1e30,0.01,0.0001", "seed=3,4", "sweep.workers=2")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three learning rates, one of them impossible, with two seeds, two runs at once; the best trial tested."""
    folder = tmp_path_factory.mktemp("swept")
    return folder, train(folder, "-m", *SWEPT, "sweep.name=lr", "sweep.test_best=true")


def test_a_sweep_runs_everything_that_can_be_run(swept):
    folder, process = swept
    assert process.returncode == 0, process.stderr
    sweep = folder / "outputs/sweeps/lr"
    assert {file.parent.name for file in sweep.glob("*/results.json") if file.parent.name[0] != "0"} == {
        "1-seed3", "1-seed4", "2-seed3", "2-seed4", "test-1-seed3", "test-1-seed4"}  # fmt: skip
    assert "trial 0 failed: the loss turned " in process.stdout
    with (sweep / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["n"], row["optimizer.lr"]) for row in rows] == [
        ("1", "done", "2", "0.01"), ("2", "done", "2", "0.0001"), ("0", "failed", "0", "1e+30")]  # fmt: skip
    accuracies = [results(sweep / f"1-seed{seed}")["metrics"]["val/acc"] for seed in (3, 4)]
    assert float(rows[0]["val/acc"]) == pytest.approx(sum(accuracies) / 2)
    assert (sweep / "sweep.html").stat().st_size > 1000


def test_the_best_trial_is_printed_as_a_command_line_and_tested_once(swept):
    folder, process = swept
    assert re.search(r"python \S*train.py -m data=shapes .*optimizer.lr=0.01 seed=3,4$", process.stdout, re.M)
    sweep = folder / "outputs/sweeps/lr"
    assert re.search(rf"^  dashboard  (\S+/)?optuna-dashboard {sweep}/store.journal$", process.stdout, re.MULTILINE)
    for seed in (3, 4):
        assert results(sweep / f"1-seed{seed}")["metrics"]["test/acc"] is None
        assert results(sweep / f"test-1-seed{seed}")["metrics"]["test/acc"] is not None
    assert "n = 2 seeds" in re.findall(r"^test/acc .*", process.stdout, re.M)[-1]


def test_a_run_of_a_sweep_is_the_run_of_its_command_line(swept, tmp_path):
    """Also where the sweep and its worker are new processes."""
    typed = [*SMALL, "optimizer.lr=0.01", "seed=4"]
    alone = train(tmp_path, *typed, "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    sweep = command.train(tmp_path, "-m", *SMALL, "optimizer.lr=0.01", "seed=4,5", "hydra.sweep.dir=sweep")
    assert sweep.returncode == 0, sweep.stderr
    expected = (tmp_path / "alone/metrics.csv").read_bytes()
    for run in (swept[0] / "outputs/sweeps/lr/1-seed4", tmp_path / "sweep/0-seed4"):
        assert (run / "metrics.csv").read_bytes() == expected


def test_the_same_command_again_runs_nothing_twice(swept):
    folder, process = swept
    sweep = folder / "outputs/sweeps/lr"
    before = {file: file.stat().st_mtime_ns for file in sweep.glob("*/results.json")}
    again = train(folder, "-m", *SWEPT, "sweep.name=lr", "sweep.test_best=true")
    assert again.returncode == 0, again.stderr
    assert "3 of 3 trials have ended already" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in sweep.glob("*/results.json")} == before
    assert again.stdout.splitlines()[-3:] == process.stdout.splitlines()[-3:]


def test_a_changed_space_under_the_same_name_is_refused(swept):
    folder, _ = swept
    process = train(folder, "-m", *SWEPT, "optimizer.lr=1,0.02", "sweep.name=lr")
    assert process.returncode == 2
    assert process.stderr.startswith("error: sweep lr: space of optimizer.lr was 1e30,0.01,0.0001 and is now 1,0.02")
    assert process.stderr.count("\n") == 1


def test_a_report_of_a_sweep_is_written_anew(swept):
    folder, _ = swept
    sweep = folder / "outputs/sweeps/lr"
    table = (sweep / "leaderboard.csv").read_text()
    (sweep / "leaderboard.csv").unlink()
    (sweep / "sweep.html").unlink()
    process = train(folder, "task=report", "runs=outputs/sweeps/lr")
    assert process.returncode == 0, process.stderr
    assert process.stdout == table == (sweep / "leaderboard.csv").read_text()
    assert (sweep / "sweep.html").is_file()


def test_the_runs_of_the_best_trial_get_their_pages_and_the_sweeps_page_leads_there(tmp_path):
    runs = [a_run(tmp_path / f"{number}", accuracy) for number, accuracy in enumerate((0.8, 0.9))]
    trials = [a_trial(n, runs={0: run}, values={0: 0.8 + n / 10}) for n, run in enumerate(runs)]
    write_report(a_sweep(*trials, directory=tmp_path))
    assert [(run / "report.html").is_file() for run in runs] == [False, True]
    assert 'href="./1/report.html"' in (tmp_path / "sweep.html").read_text()


def sweep_killed(folder: Path, after: str, seconds: float, *overrides: str) -> int:
    """Exit code of a sweep whose process group is killed some time after a file that matches a pattern appeared."""
    sweep = start(folder, "-m", *overrides, session=True)
    if wait_until(lambda: any(folder.glob(after)), sweep):
        time.sleep(seconds)
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
    out, err = sweep.communicate()
    assert sweep.returncode in (0, -9), out + err
    return sweep.returncode


def test_a_sweep_killed_at_random_instants_ends_where_an_undisturbed_one_ends(swept, tmp_path, request):
    kills = request.config.getoption("--sweep-kills")
    undisturbed, overrides, first, longest = swept[0] / "outputs/sweeps/lr", [*SWEPT], "1-seed3", 0.5
    if kills > 3:
        undisturbed, first, longest = tmp_path / "undisturbed", "0", 6.0
        overrides = [*SMALL, "data.images=1500", "optimizer.lr=0.1,0.03,0.01,0.003", "data.batch_size=16,32,64",
                     "checkpoint.every_n_steps=7", "trainer.max_epochs=12", "sweep.workers=2"]  # fmt: skip
        assert train(tmp_path, "-m", *overrides, f"hydra.sweep.dir={undisturbed}").returncode == 0
    expected = read_sweep(undisturbed)
    instants, killed, sweeps = random.Random(kills), 0, 0
    while killed < kills:
        sweeps += 1
        code = -9
        while code == -9 and killed < kills:  # killed while workers start or train, also when it is resumed
            after = random.Random(sweeps).choice([f"cut{sweeps}/logs", f"cut{sweeps}/{first}/train.log"])
            code = sweep_killed(tmp_path, after, instants.uniform(0, longest), *overrides,
                                f"hydra.sweep.dir=cut{sweeps}")  # fmt: skip
            killed += code == -9
        if code == -9:
            process = train(tmp_path, "-m", *overrides, f"hydra.sweep.dir=cut{sweeps}")
            assert process.returncode == 0, process.stderr
        found = read_sweep(tmp_path / f"cut{sweeps}")
        assert [(trial.number, trial.state, trial.values) for trial in found.trials] == [
            (trial.number, trial.state, trial.values) for trial in expected.trials]  # fmt: skip
        for trial in expected.of("done"):
            for run in trial.runs.values():
                assert same_files(run, tmp_path / f"cut{sweeps}" / run.name)
    print(f"{killed} kills in {sweeps} sweeps of {len(expected.trials)} trials: all as undisturbed")


def test_the_run_of_a_killed_worker_goes_on_and_ctrl_c_ends_all_in_order(tmp_path):
    process = start(tmp_path, "-m", *SMALL, "data.images=3000", "optimizer.lr=0.01,0.02", "sweep.workers=2",
                    "sweep.name=w", "trainer.max_epochs=400")  # fmt: skip
    sweep = tmp_path / "outputs/sweeps/w"
    assert wait_until(lambda: len([*sweep.glob("*/checkpoints/last.ckpt")]) == 2, process), process.communicate()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    logs = [*sweep.glob("[01]/train.log")]
    assert wait_until(lambda: any("continuing" in log.read_text() for log in logs), process), process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert re.search(r"a worker was killed by SIGKILL, perhaps because memory ran out; trial [01] goes on", out)
    assert [trial.state for trial in read_sweep(sweep).trials] == ["interrupted"] * 2
    for number in (0, 1):
        assert results(sweep / f"{number}")["status"] == "interrupted"
    assert "interrupted; the same command continues it" in out
    assert not list(sweep.rglob(".*.part"))


def test_a_sweep_all_of_whose_trials_failed_exits_with_1_or_with_2_if_all_were_refused(tmp_path):
    refused = train(tmp_path, "-m", *SMALL, "optimizer.lr=1e30,1e31", "hydra.sweep.dir=refused")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: sweep refused: every trial failed, see refused/sweep.html")
    fault = {"smallvision.training.factory.json": None}
    failed = train(tmp_path, "-m", *SMALL, "optimizer.lr=0.1,0.2", "hydra.sweep.dir=failed", patches=fault)
    assert (failed.returncode, failed.stderr) == (1, "error: sweep failed: every trial failed, see failed/sweep.html\n")


def test_a_second_sweep_in_the_same_directory_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"):
        process = train(tmp_path, "-m", *SMALL, "seed=0,1", "hydra.sweep.dir=.")
    assert process.returncode == 2
    assert process.stderr == "error: .: another process is at work on this sweep; wait for its end\n"


def test_the_storage_can_be_a_database(tmp_path):
    process = train(tmp_path, "-m", *SMALL, "trainer.max_epochs=1", "optimizer.lr=0.01",
                    f"sweep.storage=sqlite:///{tmp_path}/all.db", "hydra.sweep.dir=here")  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "1 of 1 trials: 1 done" in process.stdout
    report = train(tmp_path, "task=report", "runs=here", f"storage=sqlite:///{tmp_path}/all.db")
    assert report.returncode == 0, report.stderr
    assert report.stdout == (tmp_path / "here/leaderboard.csv").read_text()


def test_a_launcher_whose_package_is_not_installed_is_refused(tmp_path):
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = command.train(tmp_path, "-m", *SMALL, "seed=0,1", "sweep.launcher=ray", PYTHONPATH=paths)
    assert process.returncode == 2
    assert process.stderr == 'error: sweep.launcher=ray: needs a package: pip install "smallvision[ray]"\n'
