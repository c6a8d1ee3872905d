"""The limit of many steps: right where gaps are a + b/N, refuted where they are not, covering as it says."""

import numpy as np
import pytest

import gapbound as gb
from empirical.meter.ladder import extrapolate

STEPS = (10, 20, 40)


def gaps(rng, limit=0.3, slope=2.0, curve=0.0, prompts=12, samples=3, noise=0.1):
    """Gaps by step count with noise that the step counts partly share, as runs from one x_T do."""
    shared = noise * rng.standard_normal((prompts, samples))
    return {
        n: limit + slope / n + curve / n**2 + shared + noise * rng.standard_normal((prompts, samples)) for n in STEPS
    }


def test_a_parabola_in_1_over_N_is_extrapolated_exactly():
    found = extrapolate(gaps(np.random.default_rng(0), curve=40.0, noise=0.0))
    assert found.limit.value == pytest.approx(0.3, abs=1e-12)
    assert found.integrator[10].value == pytest.approx(0.2 + 0.4, abs=1e-12)
    assert found.truncation.value == pytest.approx(2 * (2 / 40 + 40 / 1600) - (2 / 20 + 40 / 400), abs=1e-12)


def test_two_step_counts_are_richardsons_extrapolation():
    ladder = gaps(np.random.default_rng(1))
    found = extrapolate({n: ladder[n] for n in (20, 40)})
    assert found.limit.value == pytest.approx((2 * ladder[40] - ladder[20]).mean(), rel=1e-12)
    assert found.truncation.value == pytest.approx((ladder[20] - ladder[40]).mean(), rel=1e-12)


def test_the_fit_is_numpys_least_squares():
    ladder = {**gaps(np.random.default_rng(2)), 80: np.full((12, 3), 0.1), 160: np.full((12, 3), 0.2)}
    means = [ladder[n].mean() for n in ladder]
    expected = np.polyfit(1 / np.array(list(ladder)), means, 2)[2]
    assert extrapolate(ladder).limit.value == pytest.approx(expected, rel=1e-10)


def test_the_limits_interval_covers_and_knows_what_shared_noise_is_worth():
    rng = np.random.default_rng(3)
    found = [extrapolate(gaps(rng, prompts=6)).limit for _ in range(1500)]
    hits = np.mean([f.interval[0] <= 0.3 <= f.interval[1] for f in found])
    assert abs(hits - 0.95) < 4 * (0.95 * 0.05 / 1500) ** 0.5
    spread = np.std([f.value for f in found])
    assert np.sqrt(np.mean([f.standard_error**2 for f in found])) == pytest.approx(spread, rel=0.08)


def test_a_truncation_above_the_sampling_error_is_not_trusted():
    rng = np.random.default_rng(4)
    assert not extrapolate(gaps(rng, curve=400.0, noise=0.02)).trusted
    assert extrapolate(gaps(rng, curve=4.0, noise=0.2)).trusted
    assert extrapolate({n: gap[:1, :1] for n, gap in gaps(rng).items()}).trusted is None


def exact_gap(n, eta, variance):
    """SDE less ODE in E z^2 on a Gaussian, N steps of Stable Diffusion's schedule, without sampling."""
    process = gb.VP.stable_diffusion(n)
    sigmas = gb.grid(process, n, "leading")
    laws = [gb.discrete_law(gb.Gaussian(0.4, variance), process, "gddim", e, sigmas=sigmas) for e in (0.0, eta)]
    ode, sde = (float(law.mean[0] ** 2 + law.variances[0]) for law in laws)
    return sde - ode


@pytest.mark.parametrize(("steps", "least", "most"), [((20, 50, 100), 0.02, 0.29), ((10, 20, 50), 0.17, 0.53)])
def test_what_the_limit_leaves_of_the_integrators_error_on_gaussians(steps, least, most):
    """The shares that the module's docstring states."""
    shares = []
    for variance in (0.5, 1.0):
        for eta in (0.5, 1.0, 1.5):
            true, last = exact_gap(998, eta, variance), exact_gap(steps[-1], eta, variance)
            found = extrapolate({n: np.full((2, 1), exact_gap(n, eta, variance)) for n in steps}).limit.value
            shares.append(abs(found - true) / abs(last - true))
    assert least < min(shares)
    assert max(shares) < most


def test_one_step_count_and_other_pairs_are_refused():
    with pytest.raises(ValueError, match=r"a limit needs at least two step counts, got \[10\]; add one"):
        extrapolate({10: np.zeros((2, 2))})
    with pytest.raises(ValueError, match="the gaps must be of the same pairs"):
        extrapolate({10: np.zeros((2, 2)), 20: np.zeros((3, 2))})
