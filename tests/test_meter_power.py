"""A pilot fixes the samples; the measurement then has the half-width that was asked for, and keeps its coverage."""

import numpy as np
import pytest

from empirical.meter.power import Spread, half_width_of, prompts_for, samples_for, spread
from empirical.meter.statistics import mean


def pairs(rng, prompts, samples, between, within):
    return between * rng.standard_normal((prompts, 1)) + within * rng.standard_normal((prompts, samples))


def test_the_components_are_unbiased():
    rng = np.random.default_rng(0)
    found = [spread(pairs(rng, 30, 4, 0.7, 1.3)) for _ in range(400)]
    for name, true in (("between", 0.49), ("within", 1.69)):
        values = np.array([getattr(f, name) for f in found])
        assert abs(values.mean() - true) < 4 * values.std() / 20


def test_the_measurement_reaches_the_half_width_and_still_covers():
    rng, target = np.random.default_rng(1), 0.12
    widths, hits = [], []
    for _ in range(600):
        prompts = 60
        effects = 0.1 * rng.standard_normal((prompts, 1))  # the pilot and the measurement have the same prompts
        S = samples_for(target, spread(effects + rng.standard_normal((prompts, 4))), prompts)
        interval = mean(effects + rng.standard_normal((prompts, S))).interval
        widths.append((interval[1] - interval[0]) / 2)
        hits.append(interval[0] <= 0 <= interval[1])
    assert np.median(widths) == pytest.approx(target, rel=0.1)
    assert abs(np.mean(hits) - 0.95) < 4 * (0.95 * 0.05 / 600) ** 0.5


def test_stopping_when_the_interval_looks_narrow_loses_coverage():
    """The negative control: samples are added until the half-width is reached, and the last look is reported."""
    rng, hits = np.random.default_rng(2), []
    for _ in range(600):
        d = rng.standard_normal((4, 60))
        for n in range(2, 61):
            interval = mean(d[:, :n]).interval
            if interval[1] - interval[0] < 0.8:
                break
        hits.append(interval[0] <= 0 <= interval[1])
    assert np.mean(hits) < 0.95 - 6 * (0.95 * 0.05 / 600) ** 0.5


def test_samples_are_the_least_that_reach_the_half_width():
    components = Spread(0.01, 1.0)
    S = samples_for(0.2, components, 30)
    assert half_width_of(components, 30, S) <= 0.2 < half_width_of(components, 30, S - 1)


def test_prompts_are_the_least_that_reach_the_half_width():
    components = Spread(0.3, 1.0)
    P = prompts_for(0.1, components, 2)
    assert half_width_of(components, P, 2) <= 0.1 < half_width_of(components, P - 1, 2)
    assert prompts_for(1e6, components, 1) == 2


def test_too_few_prompts_are_refused_with_the_number_it_takes():
    with pytest.raises(
        ValueError, match=r"256 samples of each of 10 prompts do not reach a half-width of 0\.1: .* about 389 prompts"
    ):
        samples_for(0.1, Spread(1.0, 1.0), 10)
    with pytest.raises(ValueError, match=r"half_width must be positive, got 0\.0"):
        samples_for(0.0, Spread(1.0, 1.0), 10)
    with pytest.raises(ValueError, match="prompts must be at least 2, got 1"):
        samples_for(0.1, Spread(0.0, 1.0), 1)
    with pytest.raises(ValueError, match="a pilot needs at least two prompts and two samples of each"):
        spread(np.zeros((5, 1)))
