r"""Training dynamics in closed form: what KL-regularised RL on a stochastic sampler does to the ODE along the way.

A ``Task`` names the reference, the process, the reward, eta, beta and the number of steps; ``train`` follows exact
gradients (whole batches of eta, beta and T at once), ``train_sampled`` the clipped policy gradients of DDPO and GRPO
with the functions of ``gapbound.updates``. Both return a ``History`` of rewards under the SDE trained on, the ODE and
the SDE at eta = 1, with the gap, its parts and the KL. Everything is one-dimensional.

| policy | what it can do |
|---|---|
| ``Consistent`` | one law N(m, v) seen at every noise level: SDE and ODE must agree as N and sigma_T grow |
| ``PerStep`` | an affine noise prediction of its own at every step: all a fixed-variance Gaussian policy can do |
| ``Network`` | a small network on top of the exact score of a mixture |
"""

from gapbound.training.exact import objective, train
from gapbound.training.history import History, Trained
from gapbound.training.network import Network
from gapbound.training.phase import Phase, phase_diagram
from gapbound.training.policy import Consistent, PerStep
from gapbound.training.sampled import train_sampled
from gapbound.training.signal import (
    GradientMoments,
    best_eta,
    fisher_information,
    fisher_limit,
    gradient_moments,
    mean_signal,
    signal_share,
)
from gapbound.training.task import Task

__all__ = [
    "Consistent",
    "GradientMoments",
    "History",
    "Network",
    "PerStep",
    "Phase",
    "Task",
    "Trained",
    "best_eta",
    "fisher_information",
    "fisher_limit",
    "gradient_moments",
    "mean_signal",
    "objective",
    "phase_diagram",
    "signal_share",
    "train",
    "train_sampled",
]
