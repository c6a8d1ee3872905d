"""All bounds on one question, and the smallest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gapbound._door import door
from gapbound.bounds.chi_square import of as chi_square
from gapbound.bounds.duhamel import of as duhamel
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.residual import of as residual
from gapbound.bounds.total_variation import of as total_variation
from gapbound.bounds.value import Best, Bound
from gapbound.bounds.wasserstein import of as wasserstein
from gapbound.process import Process

THEOREMS: dict[str, Callable[[Problem], Bound]] = {
    "chi_square": chi_square,
    "total_variation": total_variation,
    "wasserstein": wasserstein,
    "duhamel": duhamel,
    "residual": residual,
}


@door(infinite=True)
def best(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Best:
    """The smallest bound on each error and on the gap; bounds that do not apply are listed with the reason.

    The ODE's error may be bounded best by one theorem and the SDE's by another: their sum bounds the gap too, and so
    does the range of the reward.

    Args:
        target: Gaussian or GaussianMixture, without batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a gapbound reward, or any callable.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: batches, a negative eta, a reward of another dimension.
        TypeError: a target whose score is not exact.
    """
    question = problem(target, process, reward, eta)
    bounds: dict[str, Bound] = {}
    refused: dict[str, str] = {}
    for name, of in THEOREMS.items():
        try:
            bounds[name] = answered(of, question)
        except ValueError as error:
            refused[name] = str(error)
    return combined(bounds, refused, question.trivial)


def combined(bounds: dict[str, Bound], refused: dict[str, str], trivial: float) -> Best:
    """The smallest that these bounds of one question allow; ``trivial`` is the reward's range."""
    ode, by_ode = _smallest({name: bound.ode for name, bound in bounds.items()} | {"trivial": trivial})
    sde, by_sde = _smallest({name: bound.sde for name, bound in bounds.items()} | {"trivial": trivial})
    gaps = {name: bound.gap for name, bound in bounds.items()}
    gap, winner = _smallest(gaps | {f"{by_ode} (ODE) + {by_sde} (SDE)": ode + sde, "trivial": trivial})
    return Best(ode, sde, gap, winner, bounds, refused, trivial)


def _smallest(values: Mapping[str, float | None]) -> tuple[float, str]:
    known = {name: value for name, value in values.items() if value is not None}
    assert not any(map(math.isnan, known.values())), known
    name = min(known, key=lambda key: known[key])
    return known[name], name
