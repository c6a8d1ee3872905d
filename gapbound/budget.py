r"""The end-to-end gap of an N-step ODE against an N'-step SDE, split into what causes it.

With E the expected reward, N the steps of a run and inf its limit in continuous time,

.. math:: E^N_{ODE}(\text{model}) - E^{N'}_{SDE}(\text{model}) = \text{ODE integrator} + \text{SDE integrator}
    + \text{fine-tuning} + \text{guidance} + \text{initial mismatch}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._reward import Reward
from gapbound._validate import Array, broadcastable, choice, shown
from gapbound.affine import AffineScore, Guided
from gapbound.chain import discrete_law, levels
from gapbound.eta import Eta, Windows, checked
from gapbound.expectation import CallableReward
from gapbound.gap import reward_gap
from gapbound.gaussian import Gaussian
from gapbound.kernel import OURS, SAMPLERS
from gapbound.law import terminal_law
from gapbound.process import VP, Process, checked_process
from gapbound.schedule import SPACINGS, DiscreteRate

Model = Gaussian | AffineScore
TERMS = ("ode_integrator", "sde_integrator", "fine_tuning", "guidance", "initial_mismatch")


@dataclass(frozen=True, eq=False)
class GapBudget:
    """A gap and its terms, arrays of one shape (that of the batches of model, T and eta); see ``gap_budget``.

    Attributes:
        ode_integrator: E_ODE^N - E_ODE^inf of the model.
        sde_integrator: -(E_SDE^N' - E_SDE^inf) of the model.
        fine_tuning: gap^inf of the model minus gap^inf of the reference, both guided.
        guidance: gap^inf of the reference minus gap^inf of the unguided reference.
        initial_mismatch: gap^inf of the unguided reference.
        ode: expected reward of the N-step ODE.
        sde: expected reward of the N'-step SDE.
        runs: what the two were, in words.
    """

    ode_integrator: Array
    sde_integrator: Array
    fine_tuning: Array
    guidance: Array
    initial_mismatch: Array
    ode: Array
    sde: Array
    runs: tuple[str, str]

    @property
    @door()
    def total(self) -> Array:
        """The gap end to end, ``ode - sde``; the terms add up to it, to rounding."""
        return self.ode - self.sde

    @property
    def terms(self) -> Mapping[str, Array]:
        """The five terms by name, in the order in which they were split off."""
        return {name: getattr(self, name) for name in TERMS}

    @property
    @door()
    def continuous(self) -> Array:
        """The gap without the integrators' errors: gap^inf of the model."""
        return self.fine_tuning + self.guidance + self.initial_mismatch

    def __str__(self) -> str:
        """A line for each term, and their sum; the range of each where there is a batch."""
        lines = [f"gap of {self.runs[0]} against {self.runs[1]}"]
        rows = {**self.terms, "total": self.total}
        lines += [f"  {name.replace('_', ' '):<17}{_in_words(value)}" for name, value in rows.items()]
        lines.append(f"  {'':<17}(E r = {_in_words(self.ode).strip()} and {_in_words(self.sde).strip()})")
        return "\n".join(lines)


@door()
def gap_budget(
    model: Model,
    process: Process,
    reward: Reward,
    *,
    reference: Model | None = None,
    unguided: Model | None = None,
    eta: Eta = 1.0,
    ode_sampler: str = "ddim",
    ode_steps: int | None = None,
    ode_sigmas: Any = None,
    sde_sampler: str = "gddim",
    sde_steps: int | None = None,
    sde_sigmas: Any = None,
    sde_process: Process | None = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> GapBudget:
    r"""Split the gap of the ODE that is shipped against the SDE that was trained into terms that add up to it.

    The terms are taken off in a fixed order, each at the setting of those that follow it: first the two integrators, on
    the fine-tuned and guided model; then fine-tuning, with guidance on; then guidance, on the reference; what is left
    is the mismatch of the start. The order matters: the terms interact, and each takes its interactions with the later
    ones. Fine-tuning measured without guidance, or guidance on the fine-tuned model, are other numbers. All but the
    integrators are in continuous time, so that there the step counts cancel.

    Chains and continuous time are exact laws. An integrator's term is a plain difference of two expectations and has
    their rounding, 1e-15 of E r (1e-13 on a guided model, whose continuous-time law is a quadrature); the gaps in
    continuous time are those of ``reward_gap``.

    Args:
        model: what was fine-tuned, as it is sampled: a Gaussian, or the affine score of ``guided`` and the like.
        process: start and prior of the ODE run.
        reward: a gapbound reward.
        reference: the model before fine-tuning, guided as ``model`` is; ``model`` itself if None (no fine-tuning).
        unguided: the reference without guidance; if None, the conditional law of a ``guided`` reference, else the
            reference itself (no guidance).
        eta: of the SDE: number, array or ``Windows``.
        ode_sampler: a name of ``gapbound.kernel.SAMPLERS`` for the ODE, run at eta = 0.
        ode_steps: its steps N, 50 if neither this nor ode_sigmas is given.
        ode_sigmas: its noise levels, from sigma_T down to sigma(t_min), instead of steps of the ``grid``.
        sde_sampler: a name whose unit is our eta.
        sde_steps: N', 50 if neither this nor sde_sigmas is given.
        sde_sigmas: as ode_sigmas.
        sde_process: start and prior of the SDE run where they differ, as with diffusers' "leading" spacing, where they
            depend on the steps; the mismatch then contains the difference of the starts.
        grid: see ``gapbound.grid``; diffusers' spacings end where their schedulers do.
        t_min: where both runs stop.

    Raises:
        ValueError: a sampler with a unit of its own or without a limit, dimensions or batches that do not fit, levels
            that end elsewhere than at sigma(t_min), two runs that end at different levels, what ``discrete_law``
            refuses.
        TypeError: a model without exact chains, a reward without exact expectations.
    """
    reference = model if reference is None else reference
    if unguided is None:
        unguided = reference.conditional if isinstance(reference, Guided) else reference
    _check(model, reference, unguided, reward, sde_sampler)
    eta = checked(eta)
    ode = _Run(process, 0.0, ode_sampler, ode_steps, ode_sigmas, grid, t_min)
    sde = _Run(process if sde_process is None else sde_process, eta, sde_sampler, sde_steps, sde_sigmas, grid, t_min)
    _check_ends(ode, sde)
    finite = [run.expectation(model, reward) for run in (ode, sde)]
    endless = [run.limit(model, reward) for run in (ode, sde)]
    gaps = {id(one): _gap(one, ode, sde, reward) for one in (model, reference, unguided)}
    changes = gaps[id(model)] - gaps[id(reference)], gaps[id(reference)] - gaps[id(unguided)]
    parts = (finite[0] - endless[0], endless[1] - finite[1], *changes, gaps[id(unguided)], *finite)
    shape = broadcastable("the batches of the models, T and eta", *(part.shape for part in parts))
    fields = {name: np.broadcast_to(part, shape) for name, part in zip((*TERMS, "ode", "sde"), parts, strict=True)}
    return GapBudget(runs=(ode.name, sde.name), **fields)


class _Run:
    """One of the two samplers: its chain, its limit in continuous time, and where it ends."""

    def __init__(
        self, process: Process, eta: Eta, sampler: str, steps: int | None, sigmas: Any, grid: str, t_min: float
    ) -> None:
        self.process, self.eta, self.sampler = checked_process(process), eta, sampler
        self.sigmas = levels(process, steps, sigmas, grid, t_min)
        self.t_end = _last_time(process, steps, grid) if sigmas is None and grid in SPACINGS else t_min
        end = process.sigma(self.t_end)
        if not np.allclose(self.sigmas[-1], end, rtol=1e-9, atol=0):
            raise ValueError(
                f"the levels must end at sigma(t_min) = {end}, got {self.sigmas[-1]}; set t_min to where they end"
            )
        self.name = f"{len(self.sigmas) - 1} steps of {sampler} ({_kind(eta)})"

    def expectation(self, model: Model, reward: Reward) -> Array:
        """E r after the steps."""
        law = discrete_law(model, self.process, self.sampler, self.eta, sigmas=self.sigmas)
        return np.asarray(reward.expectation(law))

    def limit(self, model: Model, reward: Reward) -> Array:
        """E r in continuous time."""
        return np.asarray(reward.expectation(terminal_law(model, self.process, self.eta, self.t_end)))


def _gap(model: Model, ode: _Run, sde: _Run, reward: Reward) -> Array:
    """gap^inf; where the runs share their start and end in data space, by the formula that loses no digits."""
    if ode.process is sde.process and np.all(sde.sigmas[-1] == 0):
        return np.asarray(reward_gap(model, ode.process, reward, sde.eta))
    return ode.limit(model, reward) - sde.limit(model, reward)


def _kind(eta: Eta) -> str:
    if isinstance(eta, Windows) or np.ndim(eta):
        return "eta in windows" if isinstance(eta, Windows) else "a batch of eta"
    return f"eta = {float(eta):g}" if eta else "ODE"


def _last_time(process: Process, steps: int | None, spacing: str) -> float:
    assert isinstance(process, VP)
    assert isinstance(process.beta, DiscreteRate)  # or ``levels`` had refused the spacing
    return float(process.beta.times(50 if steps is None else steps, spacing)[-1])


def _check(model: Model, reference: Model, unguided: Model, reward: Reward, sde_sampler: str) -> None:
    if not isinstance(reward, Reward) or isinstance(reward, CallableReward):
        raise TypeError(
            f"gap_budget needs a gapbound reward, with exact expectations, got {shown(reward)}; see gb.Reward"
        )
    for name, one in (("model", model), ("reference", reference), ("unguided", unguided)):
        if not isinstance(one, Model):
            raise TypeError(
                f"{name} must be a Gaussian or an affine score, got {type(one).__name__}; for other models take the "
                "differences of estimate_gap's results"
            )
        if one.dim != model.dim:
            raise ValueError(f"all models must have one dimension, got {model.dim} (model) and {one.dim} ({name})")
    kind = SAMPLERS[choice("sampler", sde_sampler, SAMPLERS)]
    if kind.unit != OURS or not kind.converges:
        raise ValueError(
            f"sampler {sde_sampler!r} has no limit at a constant eta of ours, and so no continuous-time gap; convert "
            "its noise level with gapbound.units and per_step, and use sde_sampler='gddim'"
        )


def _check_ends(ode: _Run, sde: _Run) -> None:
    if not np.allclose(ode.sigmas[-1], sde.sigmas[-1], rtol=1e-9, atol=0):
        raise ValueError(
            f"the two runs must end at one noise level, got {ode.sigmas[-1]} (ODE) and {sde.sigmas[-1]} (SDE); their "
            "samples are not comparable otherwise"
        )


def _in_words(value: Array) -> str:
    if value.ndim == 0:
        return f"{float(value):+.6f}"
    return f"{value.min():+.6f} to {value.max():+.6f}, shape {value.shape}"
