"""The meter against laws that are known exactly: latents that are Gaussian, whatever the steps and eta."""

import math

import numpy as np
import pipelines as tiny
import pytest
import torch

import gapbound as gb
from empirical.meter import LatentReward, measure_gap
from empirical.meter.draws import Draws
from empirical.meter.generate import Run, Sampler
from empirical.meter.theory import expected_reduction

MEAN, VARIANCE = 0.4, 0.5
PROMPTS = [f"prompt {n}" for n in range(12)]


def energy(latents):
    """-mean z^2 over the entries, which are independent."""
    return -latents.flatten(1).square().mean(1)


def law(steps, eta):
    """Of an entry of the final latents, from the recursion over N steps."""
    process = gb.VP.stable_diffusion(steps)
    sigmas = gb.grid(process, steps, "leading")
    found = gb.discrete_law(gb.Gaussian(MEAN, VARIANCE), process, "gddim", eta, sigmas=sigmas)
    scale = 1 / (1 + float(sigmas[-1]) ** 2) ** 0.5
    return scale * float(found.mean[0]), scale**2 * float(found.variances[0])


def exact_gap(steps, eta):
    (m, v), (m_sde, v_sde) = law(steps, 0.0), law(steps, eta)
    return (m_sde**2 + v_sde) - (m**2 + v)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure_gap(
        tiny.exact_gaussian(MEAN, VARIANCE),
        PROMPTS,
        LatentReward("energy", energy),
        [0.5, 1.0, 1.5],
        [10, 20],
        32,
        guidance=1.0,
        batch_size=48,
        out=tmp_path_factory.mktemp("gaussian"),
    )


def test_the_measured_gap_is_that_of_the_N_step_recursion(measured):
    for row in measured.summary["gaps"]:
        exact = exact_gap(row["steps"], row["eta"])
        assert abs(row["value"] - exact) < 4 * row["standard_error"]
        if row["eta"] >= 1:
            assert abs(exact) > 8 * row["standard_error"]  # the integrator's gap is there, and excludes 0


def test_the_same_check_rejects_another_eta_and_another_number_of_steps(measured):
    (row,) = [row for row in measured.summary["gaps"] if (row["steps"], row["eta"]) == (10, 1.0)]
    assert abs(row["value"] - exact_gap(10, 1.5)) > 6 * row["standard_error"]
    assert abs(row["value"] - exact_gap(50, 1.0)) > 6 * row["standard_error"]


def test_rewards_of_ode_and_sde_are_those_of_the_recursion(measured):
    for row in measured.summary["rewards"]:
        m, v = law(row["steps"], row["eta"])
        assert abs(row["value"] + m**2 + v) < 4.5 * row["standard_error"]


def test_pairing_is_worth_what_theory_says_on_the_model_it_speaks_of():
    """N(0, 1) with a linear reward: correlation rho^(eta^2/2) between the entries of ODE and SDE."""
    sampler, pairs = Sampler(tiny.exact_gaussian(0.0, 1.0), Draws(0)), [(prompt, 0) for prompt in PROMPTS]
    ode = sampler(pairs, Run(0.0, 50, 1.0))
    for eta in (0.5, 1.0):
        sde = sampler(pairs, Run(eta, 50, 1.0)).latents.flatten().double().numpy()
        ends = np.stack([ode.latents.flatten().double().numpy(), sde])
        measured = ends.var(1).sum() / (ends[0] - ends[1]).var()
        expected = expected_reduction(*ode.sigmas, eta, 1)
        # theory is of many steps; 50 lose some of the variance and keep the order of magnitude
        assert measured == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("draws", [1, 4])
def test_the_expected_reduction_is_the_closed_form_of_theory_8(eta, draws):
    first, last = 14.61, 0.0292
    rho = (1 + last**2) / (1 + first**2)
    paired = 1 + (1 + (draws - 1) * rho ** (eta**2)) / draws - 2 * rho ** (eta**2 / 2)
    assert expected_reduction(first, last, eta, draws) == pytest.approx((1 + 1 / draws) / paired, rel=1e-9)
    assert expected_reduction(math.inf, 0.0, eta, draws) == pytest.approx(1.0)


def test_a_latent_reward_sees_what_the_decoder_gets():
    pipeline = tiny.stable_diffusion()
    made = Sampler(pipeline, Draws(0))([("a cat", 0)], Run(1.0, 3, 2.0))
    decoded = pipeline.vae.decode(made.latents / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), made.images)
