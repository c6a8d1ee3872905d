r"""Bounds on the reward gap of ODE and SDE sampler: theorems for exact scores (B1 to B5), estimates for learned ones.

The theorems are proved; the constants that enter them are closed forms, cited upper bounds, or numbers that are
numerically evaluated with a stated error, which is added. Each ``Constant`` says which. None of the evaluations is an
enclosure in interval arithmetic: a bound is as good as the stated errors are. Constants are kept as logarithms, so
that neither underflow nor overflow makes a bound too small; where a number cannot be had, the bound is the trivial one
(the reward's range, or infinity) and ``Bound.reason`` says why.

Every function is called as (target, process, reward, eta=...) and returns a ``Bound``: numbers for the ODE's error, the
SDE's and their gap, with the constants that went in, where each came from, and what was assumed. A bound whose
assumptions fail raises ``ValueError``; ``best`` lists it with the reason instead.

| bound | needs | strong where |
|---|---|---|
| ``chi_square`` | chi^2(prior || q_T) finite | eta of 1 or more, several modes |
| ``total_variation`` | bounded reward | large mismatch, chi^2 infinite |
| ``wasserstein`` | one-sided Lipschitz score, Lipschitz or quadratic reward | one mode |
| ``duhamel`` | chi^2 finite | small eta: it vanishes with the gap |
| ``residual`` | one Gaussian, or a mixture with d = 1 | nearly everywhere; exact for one Gaussian and at eta = 1 |

A learned score, any torch callable, gets B3 from ``certify``, with its own one-sided Lipschitz constant and its score
error, which are estimates and labelled so: ``score_error``, ``score_difference``, ``one_sided_lipschitz`` find them.

Every question is first reduced, exactly, to the directions that matter, those that the reward reads and those along
which modes differ (``directions``): for mixtures of one covariance and rewards of few directions the bounds at
d = 16,384 are those in two or three dimensions.
"""

from gapbound.bounds.best import best
from gapbound.bounds.certificate import Certificate, ScoreCurve
from gapbound.bounds.certify import certify
from gapbound.bounds.chi_square import chi_square
from gapbound.bounds.duhamel import duhamel
from gapbound.bounds.jacobian import one_sided_lipschitz
from gapbound.bounds.residual import residual
from gapbound.bounds.score_error import score_difference, score_error
from gapbound.bounds.total_variation import total_variation
from gapbound.bounds.value import Best, Bound, Constant
from gapbound.bounds.wasserstein import wasserstein
from gapbound.reduction import directions

__all__ = [
    "Best",
    "Bound",
    "Certificate",
    "Constant",
    "ScoreCurve",
    "best",
    "certify",
    "chi_square",
    "directions",
    "duhamel",
    "one_sided_lipschitz",
    "residual",
    "score_difference",
    "score_error",
    "total_variation",
    "wasserstein",
]
