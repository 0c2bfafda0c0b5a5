"""How a sweep stands: what is over, what goes on, what went wrong."""

from collections import Counter
from typing import Any

from smallvision.reports.sweep_view import SweepView
from smallvision.reports.words import counted, listed

STATES = ("done", "running", "interrupted", "pruned", "failed", "waiting")
METHODS = {
    "grid": "Every combination",
    "random": "Values drawn at random",
    "tpe": "Values proposed by TPE",
}
MOST_REASONS, LONGEST_REASON = 20, 6_000


def standing(view: SweepView) -> dict[str, Any]:
    """What the page's head says. ``parts``: state, count and share of the trials that are planned."""
    counts = Counter(trial.state for trial in view.trials)
    planned = max(view.planned, len(view.trials), 1)
    waiting = planned - sum(counts[state] for state in STATES if state != "waiting")
    counts["waiting"] = waiting if waiting > 0 and view.planned > 0 else counts["waiting"]
    parts = [(state, counts[state], 100 * counts[state] / planned) for state in STATES if counts[state]]
    times = [trial.seconds for trial in view.trials if trial.seconds is not None and trial.same_as is None]
    begun = [trial.began for trial in view.trials if trial.began is not None]
    ended = [trial.ended for trial in view.trials if trial.ended is not None]
    is_over = bool(view.trials) and all(state in ("done", "pruned", "failed") for state, *_ in parts)
    return {
        "parts": parts,
        "planned": planned,
        "over": counts["done"] + counts["pruned"] + counts["failed"],
        "is_over": is_over,
        "seconds": sum(times) if times else None,
        "began": min(begun).strftime("%Y-%m-%d %H:%M") if begun else None,
        "wall": (max(ended) - min(begun)).total_seconds() if begun and ended and is_over else None,
        "lead": _lead(view),
    }


def failures(view: SweepView) -> list[dict[str, Any]]:
    """Failed trials by the first line of their reason, the commonest first; each with one whole reason."""
    found: dict[str, dict[str, Any]] = {}
    for trial in view.of("failed"):
        first, _, rest = (trial.reason or "").strip().partition("\n")
        first = first or "no reason is known"
        one = found.setdefault(first[:500], {"first": first[:500], "rest": "", "numbers": [], "run": None})
        one["numbers"].append(trial.number)
        one["rest"] = one["rest"] or rest.strip()[-LONGEST_REASON:]
        one["run"] = one["run"] or next(iter(trial.runs.values()), None)
    ordered = sorted(found.values(), key=lambda one: -len(one["numbers"]))
    if len(ordered) > MOST_REASONS:
        others = [number for one in ordered[MOST_REASONS:] for number in one["numbers"]]
        ordered = ordered[:MOST_REASONS]
        words = "other reasons; leaderboard.csv has them"
        ordered.append({"first": words, "rest": "", "numbers": sorted(others), "run": None})
    return ordered


def _lead(view: SweepView) -> str:
    """What was searched and how, in a sentence or two."""
    want = "largest" if view.maximize else "smallest"
    seeds = f"{counted(len(view.seeds), 'seed')} ({listed(view.seeds)})"
    each = f"{seeds}, {counted(view.epochs, 'epoch')} each"
    if not view.space:
        return f"One configuration, repeated: {each}."
    method = METHODS.get(view.method, f"Method {view.method}")
    pruning = "" if view.pruner == "none" else f" Hopeless trials are pruned ({view.pruner})."
    many = counted(view.planned, "trial")
    return f"{method}, for the {want} {view.metric}: {many} of {each}.{pruning}"
