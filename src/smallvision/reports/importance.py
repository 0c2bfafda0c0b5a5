"""How much each searched key of a sweep matters, and on which scale its values lie."""

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise

from smallvision.reports.sweep_view import SweepView, TrialView

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
MIN_TRIALS = 4
MAX_TRIALS = 250  # that the forest is grown on: its time grows faster than their number


@dataclass(frozen=True)
class Axis:
    """The values of one searched key, as ``texts`` and, unless it is categorical, as ``numbers``."""

    key: str
    texts: list[str]
    numbers: list[float] | None
    log: bool

    @classmethod
    def of(cls, view: SweepView, key: str, trials: list[TrialView]) -> "Axis":
        """The values of those of ``trials`` that have one."""
        texts = [trial.params[key] for trial in trials if key in trial.params]
        numbers = [number for text in texts if (number := _number(text)) is not None]
        if not numbers or len(numbers) < len(texts):
            return cls(key, texts, None, False)
        expression = view.space.get(key, "")
        linear = "interval" in expression or "range" in expression  # unless it is tagged log
        log = min(numbers) > 0 and ("log" in expression or (not linear and _geometric(sorted(set(numbers)))))
        return cls(key, texts, numbers, log)


def at_edge(view: SweepView) -> dict[str, str]:
    """The searched numbers of which the best trial has the smallest or largest that was asked for, and which it is; of
    an interval, within 5 % of its end.
    """
    found = {}
    for key, expression in view.space.items() if view.best else ():
        trials = [trial for trial in view.trials if key in trial.params]
        axis, own = Axis.of(view, key, trials), _number(view.best.params.get(key, "")) if view.best else None
        if axis.numbers is None or own is None or len(set(axis.numbers)) < 3:
            continue
        typed = [float(text) for text in re.findall(NUMBER, expression)] if "interval" in expression else axis.numbers
        low, high, own = (math.log(one) if axis.log else one for one in (min(typed), max(typed), own))
        margin = 0.05 * (high - low) if "interval" in expression else 0.0
        if not low + margin < own < high - margin:
            found[key] = "smallest" if own <= low + margin else "largest"
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _geometric(values: list[float]) -> bool:
    """Whether listed values, as 32, 64, 128, are more evenly spaced on a log scale than on a linear one."""
    steps = [after - before for before, after in pairwise(values)]
    factors = [math.log(after / before) for before, after in pairwise(values)]
    return len(values) > 2 and max(factors) / min(factors) < max(steps) / min(steps)


@dataclass(frozen=True)
class Importance:
    """The fraction of the metric's variance that each key explains, the largest first, and from how many ``trials``.

    Where nothing can be said, ``obstacle`` names why: few_trials, same_metric or same_values.
    """

    fractions: dict[str, float] = field(default_factory=dict)
    trials: int = 0
    obstacle: str = ""


def importance(view: SweepView) -> Importance:
    """fANOVA over a forest of regression trees (Hutter, Hoos, Leyton-Brown, ICML 2014), as Optuna computes it."""
    trials = [trial for trial in view.measured if set(view.space) <= set(trial.params)]
    if len(trials) < MIN_TRIALS:
        return Importance(trials=len(trials), obstacle="few_trials")
    values = [trial.value or 0.0 for trial in trials]
    if max(values) - min(values) <= 1e-12 * max(map(abs, values)):
        return Importance(trials=len(trials), obstacle="same_metric")
    if len(trials) > MAX_TRIALS:
        trials = [trials[place * len(trials) // MAX_TRIALS] for place in range(MAX_TRIALS)]
    axes = [axis for key in view.space if len(set((axis := Axis.of(view, key, trials)).texts)) > 1]
    if not axes:
        return Importance(trials=len(trials), obstacle="same_values")
    fractions = _fanova(trials, axes, view.maximize)
    if not all(map(math.isfinite, fractions.values())):
        return Importance(trials=len(trials), obstacle="same_metric")
    return Importance(dict(sorted(fractions.items(), key=lambda item: -item[1])), len(trials))


def _fanova(trials: list[TrialView], axes: list[Axis], maximize: bool) -> dict[str, float]:
    import optuna  # only here: it and the forest take long to load
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    spaces: dict[str, BaseDistribution] = {}
    for one in axes:
        if one.numbers is None:
            spaces[one.key] = CategoricalDistribution(sorted(set(one.texts)))
        else:
            spaces[one.key] = FloatDistribution(min(one.numbers), max(one.numbers), log=one.log)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would log the new study in the terminal
    try:
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    for place, trial in enumerate(trials):
        params = {one.key: (one.numbers or one.texts)[place] for one in axes}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=trial.value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {key: float(one) for key, one in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
