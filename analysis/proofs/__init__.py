"""Symbolic checks of what the proofs in paper/ rest on: ``python -m analysis.proofs`` prints their residuals.

| module | what it checks |
|---|---|
| ``fields`` | identities between densities, density ratios and value functions of any shape |
| ``gaussians`` | closed forms on Gaussian targets, and the counterexamples |
| ``inequalities`` | differences written as squares, curvature, mixtures |
| ``fine_tuning`` | the optimum of KL-regularised RL, with stochasticity everywhere or in a window |
| ``reuse`` | an ODE on a score that was trained at eta: corrections, and where none is needed |
| ``paths`` | path KL, Fisher information, shares of steps, and the start from pure noise |
| ``chains`` | samplers of N steps, and the regulator that RL on them is |
| ``guidance`` | laws of guided samplers |
| ``first_order`` | windows that move; first-order errors of scores and of steps |
"""

from analysis.proofs import chains, fields, fine_tuning, first_order, gaussians, guidance, inequalities, paths, reuse
from analysis.proofs.registry import CHECKS

__all__ = [
    "CHECKS",
    "chains",
    "fields",
    "fine_tuning",
    "first_order",
    "gaussians",
    "guidance",
    "inequalities",
    "paths",
    "reuse",
]
