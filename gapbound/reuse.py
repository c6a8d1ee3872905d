r"""What a trained score earns when an ODE reuses it, and whether a correction brings that nearer to what was trained.

There are two references, and a correction (``gapbound.transfer``) aims at the first: the ODE of the tilted target, and
the SDE that was trained. They earn the same only in the limit of a far start. For N(mu, S), a linear reward and
rho = S / (S + sigma_T^2), shifts of the mean in units of the target's are

.. math:: \text{plain} = \frac{2 (1 - \rho^{\eta^2 / 2})}{1 + \eta^2}, \quad \text{corrected} = 1 - \rho^{1/2}, \quad
    \text{trained} = 1 - \rho^{\eta^2},

and for mu = 0 the weight widens the gap to the trained SDE exactly where r = rho^(eta^2 / 2) lies strictly between r_1
and r_2: with n = 1 / eta^2 and f(r) = (1 - r^n) / (1 - r), r_1 is the root in (0, 1) of f(r) = 2 n / (n + 1) and r_2
that of f(r) = 2 r + 2 / (n + 1), which is 1 where there is none (eta^2 > 1 and eta^2 <= (sqrt(17) - 1) / 8).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from gapbound._validate import Array
from gapbound.affine import AffineScore
from gapbound.eta import Windows
from gapbound.law import terminal_law
from gapbound.optimum import RLOptimum, optimum_law
from gapbound.tilt import tilt

ROUNDING = 1e-9  # share of E r by which a gap has to widen before it is said to
CHEAP = 32  # interacting dimensions up to which laws take a fraction of a second


class TransferWarning(UserWarning):
    """A correction takes the ODE further from what the trained SDE earns."""


@dataclass(frozen=True)
class TransferGap:
    """E r of four samplers that share one training run; see ``transfer_gap``.

    Attributes:
        plain: E r of the ODE that reuses the trained score, shape of the optimum's batch.
        corrected: E r of the ODE on the corrected score.
        trained: E r of the SDE that was trained.
        target: E r of the ODE of the tilted target.
    """

    plain: Array
    corrected: Array
    trained: Array
    target: Array

    @property
    def before(self) -> Array:
        """The gap to the trained SDE without the correction: ``plain - trained``."""
        return self.plain - self.trained

    @property
    def after(self) -> Array:
        """The gap to the trained SDE with the correction: ``corrected - trained``."""
        return self.corrected - self.trained

    @property
    def before_target(self) -> Array:
        """The gap to the tilted target's ODE without the correction: ``plain - target``."""
        return self.plain - self.target

    @property
    def after_target(self) -> Array:
        """The gap to the tilted target's ODE with the correction, 0 where it is exact: ``corrected - target``."""
        return self.corrected - self.target

    @property
    def widens(self) -> Array:
        """Whether the correction widens the gap to the trained SDE, rounding (1e-9 of E r) left out."""
        return widened(self.plain, self.corrected, self.trained)

    def __str__(self) -> str:
        """A table of the gaps before and after, against both references."""
        rows = (("trained SDE", self.before, self.after), ("tilted ODE", self.before_target, self.after_target))
        lines = [f"{'gap to the':<12}{'before':>22}{'after':>22}"]
        lines += [f"{name:<12}{_in_words(before):>22}{_in_words(after):>22}" for name, before, after in rows]
        return "\n".join(lines + ["the correction widens the gap to the trained SDE"] * bool(np.any(self.widens)))


def widened(plain: Array, corrected: Array, trained: Array) -> Array:
    """Whether ``corrected`` is further from ``trained`` than ``plain`` is, by more than rounding."""
    size = np.maximum(np.maximum(np.abs(plain), np.abs(corrected)), np.abs(trained))
    return np.abs(corrected - trained) - np.abs(plain - trained) > ROUNDING * size


def earned(optimum: RLOptimum, corrected: AffineScore) -> tuple[Array, Array, Array]:
    """E r of the plain ODE, of the ODE on ``corrected`` and of the trained SDE, on the optimum's own process.

    Raises:
        ValueError: the corrected score is not defined somewhere below sigma_T.
    """
    reward, process = optimum.reward, optimum.process
    laws = (
        terminal_law(optimum, process, 0.0),
        terminal_law(corrected, process, 0.0),
        optimum_law(optimum.reference, reward, optimum.beta, process, optimum.eta),
    )
    plain, own, trained = np.broadcast_arrays(*(np.asarray(reward.expectation(law)) for law in laws))
    return plain, own, trained


def transfer_gap_of(optimum: RLOptimum, corrected: AffineScore) -> TransferGap:
    """The gaps of one correction; ``gapbound.transfer.transfer_gap`` is the door.

    Raises:
        ValueError: there is no tilted target, or see ``earned``.
    """
    numbers = earned(optimum, corrected)
    target = terminal_law(tilt(optimum.reference, optimum.reward, optimum.beta), optimum.process, 0.0)
    return TransferGap(*np.broadcast_arrays(*numbers, np.asarray(optimum.reward.expectation(target))))


def warn_where_it_widens(optimum: RLOptimum, corrected: AffineScore, stacklevel: int) -> None:
    """Warn where the correction takes the ODE further from the trained SDE; silent in many interacting dimensions."""
    if not optimum.is_diagonal and optimum.dim > CHEAP:
        return
    plain, own, trained = earned(optimum, corrected)
    at_fault = widened(plain, own, trained)
    if not at_fault.any():
        return
    worst = np.unravel_index(int(np.argmax(np.where(at_fault, np.abs(own - trained), -1.0))), at_fault.shape)
    some = f"in {at_fault.sum()} of {at_fault.size} cases of the batch, at the worst: " if at_fault.size > 1 else ""
    before, after = float(plain[worst] - trained[worst]), float(own[worst] - trained[worst])
    sigma_T = float(np.broadcast_to(optimum.process.sigma_T, at_fault.shape)[worst])
    eta = "its windows"
    if not isinstance(optimum.eta, Windows):
        eta = f"eta={float(np.broadcast_to(optimum.eta, at_fault.shape)[worst]):g}"
    warnings.warn(
        f"this correction widens the gap between the ODE and the SDE trained at {eta} from sigma_T={sigma_T:g}: {some}"
        f"E r (ODE) - E r (SDE) is {before:+.4g} without and {after:+.4g} with it. A correction aims at the tilted "
        "target, which this SDE has not reached. To earn what was trained, sample the optimum itself; to draw the "
        "tilted target, keep the correction and ignore gapbound.TransferWarning; gapbound.transfer_gap gives all gaps",
        TransferWarning,
        stacklevel=stacklevel,
    )


def _in_words(value: Array) -> str:
    if value.size == 1:
        return f"{round(value.item(), 6) + 0.0:+.6f}"  # no -0.000000
    return f"{value.min():+.4f} to {value.max():+.4f}"
