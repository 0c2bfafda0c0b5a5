"""Sweep overrides become dimensions of a search space."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from smallvision.core.errors import UserError
from smallvision.sweeps.space import Dimension, grid, override_value, parse_space

PARSER = OverridesParser.create()


def parse(line: str, is_grid: bool = False) -> Dimension:
    return Dimension.from_override(PARSER.parse_override(line), is_grid)


@pytest.mark.parametrize(
    ("line", "distribution"),
    [
        ("optimizer.lr=0.1,0.01", CategoricalDistribution(["0.1", "0.01"])),
        ("model=choice(mnist,lenet5)", CategoricalDistribution(["mnist", "lenet5"])),
        ("optimizer.lr=interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("data.augmentation.shift=int(interval(0,4))", IntDistribution(0, 4)),
        ("data.batch_size=tag(log,int(interval(16,256)))", IntDistribution(16, 256, log=True)),
        ("data.batch_size=range(16,65,16)", IntDistribution(16, 64, step=16)),
        ("optimizer.momentum=range(0.5,0.95,0.1)", FloatDistribution(0.5, 0.9, step=0.1)),
        ("model.hidden=[32],[64,64]", CategoricalDistribution(["[32]", "[64,64]"])),
    ],
)
def test_hydra_s_grammar_becomes_optuna_s_distributions(line, distribution):
    found = parse(line).distribution
    if isinstance(distribution, FloatDistribution):
        assert (found.low, found.high, found.log) == pytest.approx(
            (distribution.low, distribution.high, distribution.log)
        )
        assert found.step == pytest.approx(distribution.step) if distribution.step else found.step is None
    else:
        assert found == distribution
    assert parse(line).expression == line.partition("=")[2]


@pytest.mark.parametrize("line", ["optimizer.lr=interval(0.1,1)", "seed=tag(log,interval(1,10))"])
def test_a_grid_cannot_count_through_an_interval(line):
    with pytest.raises(UserError, match="a grid cannot enumerate an interval; use sweep=random"):
        parse(line, is_grid=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimizer.lr=interval(1,0.1)", "the first must be below the second"),
        ("optimizer.lr=tag(log,interval(0,1))", "on a log scale both must be above 0"),
        ("optimizer.lr=range(1,2)", "holds 1 values"),
    ],
)
def test_a_space_without_two_values_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        parse(line)


def test_a_grid_is_every_combination_and_its_last_key_changes_fastest():
    dimensions = [parse("model=mnist,lenet5", True), parse("data.batch_size=range(16,33,16)", True)]
    assert grid(dimensions) == [
        {"model": model, "data.batch_size": size} for model in ("mnist", "lenet5") for size in ("16", "32")
    ]
    assert grid([]) == [{}]


def test_a_shuffled_sweep_has_the_same_order_whenever_it_is_resumed():
    line = "optimizer.lr=shuffle(1,2,3,4,5,6,7,8)"
    assert parse(line, True).choices == parse(line, True).choices
    assert sorted(parse(line, True).choices) == list("12345678")


def test_the_space_of_a_yaml_is_parsed_like_a_typed_one():
    (override,) = parse_space({"optimizer.lr": "tag(log, interval(1e-3, 1e-1))"}, PARSER)
    assert Dimension.from_override(override, False).distribution == FloatDistribution(1e-3, 1e-1, log=True)
    with pytest.raises(UserError, match="one value is no space"):
        parse_space({"optimizer.lr": "0.1"}, PARSER)


def test_a_sampled_number_is_typed_with_all_its_digits():
    assert override_value(0.1 + 0.2) == "0.30000000000000004"
    assert override_value(3) == "3"
    assert override_value("[1,2]") == "[1,2]"
