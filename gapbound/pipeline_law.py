r"""The exact law of diffusers' own DDIM loop, its misplaced timesteps included.

A step of ``DDIMScheduler`` leads from timestep t down to t - K // N, whatever the next timestep is. Where that is not
t - K // N ("linspace", and "trailing" where N does not divide K), the next call of the network reads the state x as if
it had the next timestep's noise level. In z = x / s this multiplies the state by s(t - K // N) / s(t_next) between two
steps. The grids of ``gapbound.grid`` have no such jump: each of their steps ends where the next begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import choice, flag
from gapbound.affine import AffineScore
from gapbound.chain import affine_steps, apply_step, diagonalised, initial_std, rotated_law
from gapbound.eta import Windows, checked
from gapbound.gaussian import Gaussian
from gapbound.process import VP
from gapbound.schedule import SPACINGS, from_diffusers


@door()
def pipeline_law(model: Gaussian | AffineScore, config: Mapping[str, Any], steps: int, eta: float = 0.0) -> Gaussian:
    r"""Law, in z, of ``steps`` steps of diffusers' ``DDIMScheduler`` on a Gaussian or affine score model.

    Args:
        model: what the network has learnt, not batched.
        config: of the scheduler; its "timestep_spacing" is followed, "leading" if it has none.
        steps: ``num_inference_steps``.
        eta: DDIM's own, a number or ``Windows``: the noise of a step is eta^2 sigma'^2 (1 - sigma'^2 / sigma^2), as in
            the sampler "ddim".

    Raises:
        ValueError: a config that no affine law follows (``clip_sample``, ``thresholding``, rescaled zero-SNR betas), a
            spacing that visits timestep -1, an eta that DDIM does not admit, a batched model.
        TypeError: no mapping, or a model that is neither a Gaussian nor an affine score.
    """
    schedule, stochasticity = from_diffusers(config), checked(eta)
    for name, default in (("clip_sample", True), ("thresholding", False)):
        if flag(name, config.get(name, default)):
            raise ValueError(f"{name}=True changes predictions in a way that is not affine; set it to False")
    spacing = choice("timestep_spacing", config.get("timestep_spacing", "leading"), SPACINGS)
    diagonal, basis = diagonalised(model)
    if diagonal.batch_shape or (not isinstance(stochasticity, Windows) and stochasticity.ndim):
        raise ValueError(f"pipeline_law takes one model and one eta, got batch {diagonal.batch_shape} and eta={eta}")
    starts, ends = schedule.ddim_loop(steps, spacing)
    process = VP(starts[0], schedule)
    mean, cov = np.zeros(diagonal.dim), initial_std(process) ** 2 * np.ones(diagonal.dim)
    if not diagonal.is_diagonal:
        cov = np.diag(cov)
    for start, end, following in itertools.zip_longest(starts, ends, starts[1:]):
        if end < start:
            sigmas = np.array([process.sigma(start), process.sigma(end)])
            (step,) = affine_steps(diagonal, "ddim", sigmas, stochasticity)
            mean, cov = apply_step(step, mean, cov, diagonal.is_diagonal)
        if following is not None:
            jump = float(process.scale(end) / process.scale(following))
            mean, cov = jump * mean, jump**2 * cov
    return rotated_law(mean, cov, basis, diagonal.is_diagonal)
