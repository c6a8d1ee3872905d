"""Stochastic samplers as drop-in diffusers schedulers: gDDIM at any eta, and other one-step kernels by name.

A pipeline saved with one of them loads again once this package has been imported: diffusers imports no module just
because a saved pipeline names it.
"""

from empirical.schedulers.convert import stochastic
from empirical.schedulers.diffusion import GDDIMScheduler
from empirical.schedulers.flow import FlowGDDIMScheduler
from empirical.schedulers.stochastic import SAMPLERS, StepOutput

__all__ = ["SAMPLERS", "FlowGDDIMScheduler", "GDDIMScheduler", "StepOutput", "stochastic"]
