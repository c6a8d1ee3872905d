"""Symbolic checks of what the proofs in paper/ rest on: ``python -m analysis.proofs`` prints their residuals.

| module | what it checks |
|---|---|
| ``fields`` | identities between densities, density ratios and value functions of any shape |
| ``gaussians`` | closed forms on Gaussian targets, and the counterexamples |
| ``inequalities`` | differences written as squares, curvature, mixtures |
"""

from analysis.proofs import fields, gaussians, inequalities
from analysis.proofs.registry import CHECKS

__all__ = ["CHECKS", "fields", "gaussians", "inequalities"]
