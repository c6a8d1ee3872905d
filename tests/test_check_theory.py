"""Predicted against measured gaps of the embedded model: the prediction by hand, the bands, the verdict."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis.figure import Settings
from analysis.style import paper
from empirical import check_theory
from empirical.check_theory import BANDS, EDGES, Directions, predicted, summary
from gapbound.schedule import STABLE_DIFFUSION

CONFIG = {**STABLE_DIFFUSION, "timestep_spacing": "leading"}


@pytest.fixture(scope="module")
def latents():
    draw = np.random.default_rng(0)
    mixing = draw.standard_normal((768, 768)) * np.geomspace(1, 1e-3, 768)
    return draw.standard_normal((3000, 768)) @ mixing.T / 20 + 0.3


def test_bands_are_ordered_by_variance_and_their_rewards_have_the_expected_means(latents):
    directions = Directions.of(latents)
    widths = [directions.law.cov[directions.bands == band] for band in range(BANDS)]
    assert [len(width) for width in widths] == list(np.diff(EDGES))
    assert all(wide.min() >= narrow.max() for wide, narrow in itertools.pairwise(widths))
    rewards = directions.rewards(torch.tensor(latents).reshape(-1, 12, 8, 8))
    np.testing.assert_allclose(rewards.mean(0), directions.expected(directions.law), rtol=1e-3)
    np.testing.assert_allclose(rewards.sum(1), -(latents**2).sum(1), rtol=1e-8)


def test_too_few_latents_are_refused(latents):
    with pytest.raises(ValueError, match="768 directions need more than 768 latents, got 700"):
        Directions.of(latents[:700])


def by_hand(m, v, eta, steps):
    """Mean and variance of x after gDDIM on the score of N(m, v), step by step in diffusers' own variables."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    timesteps = [(1000 // steps) * k + 1 for k in reversed(range(steps))]
    mean, var = 0.0, 1.0
    for t in timesteps:
        before, after = alphas[t], alphas[max(t - 1000 // steps, 0)]
        sigma, low = ((1 - a) / a for a in (before, after))
        k = (low / sigma) ** (eta**2 / 2)
        # z = x / sqrt(alpha_bar); eps = sqrt(sigma) (z - m) / (v + sigma), x_0 = z - sqrt(sigma) eps
        gain = 1 / (v + sigma)
        push = np.sqrt(sigma) * (np.sqrt(low) * k - np.sqrt(sigma))
        A = (1 + push * gain) * np.sqrt(after / before)
        b = -push * gain * m * np.sqrt(after)
        mean, var = A * mean + b, A**2 * var + after * low * (1 - k**2)
    return mean, var


@pytest.mark.parametrize(("eta", "steps"), [(1.0, 10), (1.5, 50)])
def test_the_prediction_is_that_of_the_chain_written_out(latents, eta, steps):
    directions = Directions.of(latents)
    m, v = directions.law.mean, directions.law.cov
    (ode_mean, ode_var), (sde_mean, sde_var) = (by_hand(m, v, own, steps) for own in (0.0, eta))
    each = -(ode_mean**2 + ode_var) + sde_mean**2 + sde_var
    expected = [each[directions.bands == band].sum() for band in range(BANDS)]
    np.testing.assert_allclose(predicted(directions, CONFIG, eta, steps), expected, rtol=1e-5, atol=1e-9)
    wrong = predicted(directions, CONFIG, 0.8 * eta, steps)
    assert np.abs(wrong / expected - 1).max() > 0.05


def row(predicted, measured, reach, band=0):
    interval = (measured - reach, measured + reach)
    return {"eta": 1.0, "steps": 10, "band": band, "predicted": predicted, "measured": measured, "interval": interval}


def test_the_verdict_counts_signs_among_intervals_that_exclude_0():
    found = summary({"rows": [row(1, 2, 1.5), row(-1, -2, 1), row(-1, 2, 1), row(1, -1, 5)]})
    assert found["settled"] == 0.75
    assert found["signs"] == pytest.approx(2 / 3)
    assert found["slope"] == pytest.approx((2 + 2 - 2 - 1) / 4)
    assert summary({"rows": [row(1, -1, 5), row(2, 1, 5)]})["signs"] == 0


def test_the_figure_shows_every_row():
    rows = [
        {**row(1.0 + band, 1.0, 0.5, band), "eta": eta, "steps": steps}
        for eta in check_theory.ETAS
        for steps in check_theory.STEPS
        for band in range(BANDS)
    ]
    with paper():
        figure = check_theory.draw({"rows": rows})
    assert isinstance(figure, Figure)
    assert sum(len(axes.containers) for axes in figure.axes) == len(rows)
    text = check_theory.table({"rows": rows, "variances": [1.0] * BANDS, "samples": 3})
    assert text.row_count == len(rows)


def test_the_background_explains_a_direction_that_is_one_and_none_that_is_not():
    grounds = np.array([check_theory.scene(check_theory.HELD_OUT, index).background for index in range(300)])
    values = {"white": 3.0, "gray": 0.0, "black": -2.0}
    draw = np.random.default_rng(0).standard_normal(300)
    assert check_theory.background_share(np.array([values[ground] for ground in grounds])) == pytest.approx(1)
    assert abs(check_theory.background_share(draw)) < 0.05


@pytest.mark.slow
def test_signs_are_as_predicted_on_the_embedded_model():
    found = summary(check_theory.compute(Settings(quick=True), lambda fraction: None))
    assert found["signs"] > 0.7
    assert found["correlation"] > 0.7
