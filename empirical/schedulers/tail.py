"""The end of a sampler by a second-order ODE solver in fewer steps: the Flash form of MixGRPO."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from empirical.schedulers.diffusion import GDDIMScheduler
from empirical.schedulers.flow import FlowGDDIMScheduler
from gapbound._validate import count


def tail_steps(steps: int, first: int, n: int) -> list[int]:
    """Which of ``steps`` steps start the ``n`` that lead from step ``first`` to the end, evenly chosen.

    Raises:
        ValueError: n is below 1, or above the steps that are left.
    """
    left = count("steps", steps) - count("first", first, 0)
    if count("n", n) > left:
        raise ValueError(f"{left} of {steps} steps are left after the window, which {n} cannot replace; ask for fewer")
    return [first + round(i * left / n) for i in range(n)]


def tail(scheduler: GDDIMScheduler | FlowGDDIMScheduler, starts: list[int]) -> DPMSolverMultistepScheduler:
    """DPM-Solver++(2M) of diffusers from step ``starts[0]`` of the scheduler's grid to its end.

    Args:
        scheduler: whose grid and process the solver goes on with; it has a grid.
        starts: see ``tail_steps``.

    Raises:
        ValueError: a scheduler that clips its prediction of x_0, which the solver does not.

    Reference: DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (Lu et al., 2022),
    https://arxiv.org/abs/2211.01095
    """
    flow, config = isinstance(scheduler, FlowGDDIMScheduler), scheduler.config
    if config.get("clip_sample") or config.get("thresholding"):
        raise ValueError("the solver of the last steps does not clip x_0 as this scheduler does; set clip_sample=False")
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=config.num_train_timesteps,
        prediction_type="flow_prediction" if flow else config.prediction_type,
        use_flow_sigmas=flow,
        algorithm_type="dpmsolver++",
        solver_order=2,
    )
    levels, ends = scheduler.levels, [*starts, len(scheduler.timesteps)]
    solver.num_inference_steps = len(starts)
    solver.timesteps = scheduler.timesteps[starts]
    solver.sigmas = torch.from_numpy((levels.noise if flow else levels.sigma)[ends].astype(np.float32))
    solver.set_begin_index(0)
    return solver
