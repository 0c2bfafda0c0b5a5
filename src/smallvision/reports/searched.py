"""What the searched keys' values are, and how much each key matters."""

import math
from dataclasses import dataclass
from itertools import pairwise

from smallvision.reports.pages import NoPicture
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.reports.words import counted

ENOUGH = 4  # trials, below which nothing can be said of what matters
MOST = 250  # trials that the forest is grown on: its time grows faster than they do


@dataclass(frozen=True)
class Axis:
    """One searched key's values. ``log``: numbers whose ratios matter; ``numbers``: None for words."""

    key: str
    words: list[str]
    numbers: list[float] | None
    log: bool


def axis(view: SweepView, key: str, trials: list[TrialView]) -> Axis:
    """The values of ``key`` in those of ``trials`` that have one."""
    words = [trial.params[key] for trial in trials if key in trial.params]
    numbers = [_number(word) for word in words]
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(words):
        return Axis(key, words, None, False)
    expression = view.space.get(key, "")
    drawn = "interval" in expression or "range" in expression  # evenly, unless it says log
    log = min(known) > 0 and ("log" in expression or (not drawn and _by_factors(sorted(set(known)))))
    return Axis(key, words, known, log)


def importance(view: SweepView) -> tuple[dict[str, float], str]:
    """The share of each searched key in how the figure varies, the largest first, and what to know of it.

    fANOVA over a forest of regression trees (Hutter, Hoos, Leyton-Brown, ICML 2014), as Optuna has it.
    Raises NoPicture where there is nothing to go by.
    """
    trials = [trial for trial in evidence(view) if set(view.space) <= set(trial.params)]
    if len(trials) < ENOUGH:
        raise NoPicture(f"It takes {ENOUGH} finished trials to say what matters; there are {len(trials)}.")
    values = [trial.value or 0.0 for trial in trials]
    if max(values) - min(values) <= 1e-12 * max(map(abs, values)):
        raise NoPicture("All finished trials have the same figure, so nothing can be said of what matters.")
    if len(trials) > MOST:
        trials = [trials[place * len(trials) // MOST] for place in range(MOST)]
    axes = [axis(view, key, trials) for key in view.space]
    axes = [one for one in axes if len(set(one.words)) > 1]
    if not axes:
        raise NoPicture("All finished trials have the same values, so nothing can be said of what matters.")
    return _fanova(view, trials, axes), f"Reckoned from {counted(len(trials), 'finished trial')}."


def evidence(view: SweepView) -> list[TrialView]:
    """Finished trials with a figure, each configuration once."""
    return [
        trial
        for trial in view.of("done")
        if trial.same_as is None and trial.value is not None and math.isfinite(trial.value)
    ]


def _fanova(view: SweepView, trials: list[TrialView], axes: list[Axis]) -> dict[str, float]:
    import optuna  # only here: it and the forest take long to load
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    spaces: dict[str, BaseDistribution] = {}
    for one in axes:
        if one.numbers is None:
            spaces[one.key] = CategoricalDistribution(sorted(set(one.words)))
        else:
            spaces[one.key] = FloatDistribution(min(one.numbers), max(one.numbers), log=one.log)
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the study on the screen
    try:
        study = optuna.create_study(direction="maximize" if view.maximize else "minimize")
    finally:
        optuna.logging.set_verbosity(told)
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={one.key: (one.numbers or one.words)[place] for one in axes},
                distributions=spaces,
                value=trial.value,
            )
            for place, trial in enumerate(trials)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = {key: float(share) for key, share in shares.items()}
    if not all(map(math.isfinite, found.values())):
        raise NoPicture("The finished trials differ too little to say what matters.")
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _by_factors(values: list[float]) -> bool:
    """Whether listed values, as 32, 64, 128, lie more evenly on a log scale than on a linear one."""
    steps = [after - before for before, after in pairwise(values)]
    factors = [math.log(after / before) for before, after in pairwise(values)]
    return len(values) > 2 and max(factors) / min(factors) < max(steps) / min(steps)


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
