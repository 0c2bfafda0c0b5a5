"""What a terminal shows while a sweep runs."""

import io

import rich.console
from helpers.sweeps import usual_sweep

from smallvision.core.console import Console
from smallvision.sweeps.terminal import SweepDisplay


def test_80_columns_show_what_is_done_and_running_the_best_and_the_time_left() -> None:
    terminal = rich.console.Console(width=80, file=io.StringIO(), record=True)
    display, view = SweepDisplay(Console(terminal)), usual_sweep()
    display.update(view)
    terminal.print(display._status(view, view.ended))
    lines = terminal.export_text().splitlines()
    assert lines[0] == "  10/13 trials: 8 done, 1 pruned, 1 failed, 1 running"
    assert lines[1].startswith("  best val/acc 0.8")
    assert lines[1].endswith("time left: after the first trial")
    assert lines[2].startswith("  trial 11  epoch 2, 2, 2/4")
    assert (len(lines), max(map(len, lines)) <= 80) == (3, True)
