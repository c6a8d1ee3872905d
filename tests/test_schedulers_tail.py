"""The solver of the last steps: its grid, its order, and that it ends where the ODE ends."""

import numpy as np
import pipelines as tiny
import pytest
import torch

from empirical.schedulers import GDDIMScheduler, stochastic
from empirical.schedulers.tail import tail, tail_steps
from gapbound.schedule import STABLE_DIFFUSION

CASES = {"Stable Diffusion": tiny.stable_diffusion, "Stable Diffusion 3": tiny.stable_diffusion_3}


def test_steps_are_spread_evenly_over_what_is_left():
    assert tail_steps(25, 4, 7) == [4, 7, 10, 13, 16, 19, 22]
    assert tail_steps(10, 8, 2) == [8, 9]
    with pytest.raises(ValueError, match="2 of 10 steps are left after the window, which 3 cannot replace"):
        tail_steps(10, 8, 3)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        tail_steps(10, 8, 0)


def exact(scheduler, x, k):
    """x_0 and noise that a perfect network predicts where data are N(0, 1/4)."""
    signal, noise = (float(part[k]) for part in (scheduler.levels.signal, scheduler.levels.noise))
    D = x * signal * 0.25 / (signal**2 * 0.25 + noise**2)
    return D, (x - signal * D) / noise


def second_order(scheduler, starts):
    """Where the solver takes x = 1."""
    solver, x = tail(scheduler, starts), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for k in starts:
        D, eps = exact(scheduler, x, k)
        output = {"flow": eps - D, "epsilon": eps}[scheduler._prediction]
        x = solver.step(output, scheduler.timesteps[k], x).prev_sample
    return float(x)


def first_order(scheduler, starts):
    """Where DDIM's steps between the same levels take it."""
    x, levels = 1.0, scheduler.levels
    for k, after in zip(starts, [*starts[1:], -1], strict=True):
        D, eps = exact(scheduler, x, k)
        x = levels.signal[after] * D + levels.noise[after] * eps
    return x


@pytest.mark.parametrize("name", list(CASES))
def test_it_gains_on_the_ode_s_first_order_steps_as_they_get_smaller(name):
    """Against the exact map of the ODE, which scales a Gaussian's spread."""
    scheduler = stochastic(CASES[name]().scheduler, eta=0.0)
    scheduler.set_timesteps(400)
    signal, noise = scheduler.levels.signal[[100, -1]], scheduler.levels.noise[[100, -1]]
    start, end = np.sqrt(signal**2 * 0.25 + noise**2)
    errors = np.array(
        [
            [abs(solve(scheduler, tail_steps(400, 100, n)) - end / start) for solve in (second_order, first_order)]
            for n in (10, 20, 80)
        ]
    )
    assert (errors[1:, 1] < 0.6 * errors[:-1, 1]).all()
    assert (errors[1:, 0] < 0.7 * errors[:-1, 0]).all()
    assert (errors[:, 0] < [0.65, 0.5, 0.25] * errors[:, 1]).all(), errors


def test_a_tail_of_one_step_is_the_last_step_of_the_ode():
    for make in CASES.values():
        scheduler = stochastic(make().scheduler, eta=0.0)
        scheduler.set_timesteps(6)
        x, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
        wanted = scheduler.step(output, scheduler.timesteps[5], x).prev_sample
        found = tail(scheduler, [5]).step(output, scheduler.timesteps[5], x).prev_sample
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_scheduler_that_clips_is_refused():
    scheduler = GDDIMScheduler(**{**STABLE_DIFFUSION, "clip_sample": True})
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="does not clip x_0 as this scheduler does; set clip_sample=False"):
        tail(scheduler, [2, 3])
