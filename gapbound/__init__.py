r"""Exact and simulated reward gaps between the stochastic and the deterministic sampler of a diffusion model.

Conventions, for every module:

- **Coordinate.** Forward processes are x_t = s(t) (x_0 + sigma(t) eps). Laws, scores and kernels live in z = x / s at
  noise level sigma, with tau = sigma^2, where every process is the heat flow q_tau = p * N(0, tau I).
- **Time** runs from 0 (data) to T (noise); samplers run down. Grids are falling noise levels.
- **eta** multiplies the standard deviation of the noise: dz = -(1 + eta^2)/2 score dtau + eta dW. 0 is the
  probability-flow ODE, 1 the time reversal. Other libraries' eta differ: see ``gapbound.units``.
- **snr** = alpha_bar / (1 - alpha_bar) = 1 / sigma^2, a ratio of variances; alpha_bar = 1 / (1 + sigma^2).
- **score** = grad log q_tau(z); **eps** = -sigma score is the noise prediction.
- **Shapes.** The last axis is the dimension d, leading axes are batch; a bare number is d = 1 (see ``Gaussian``).
- **log_prob** is a natural logarithm, summed over the d dimensions; a deterministic step has none.
- **Gap** = E r under the reference sampler (the ODE unless said otherwise) minus E r under the eta-sampler.
"""

from gapbound import bounds, training, units, updates
from gapbound.affine import AffineScore, guided
from gapbound.budget import GapBudget, gap_budget
from gapbound.chain import discrete_law
from gapbound.estimate import GapEstimate, estimate_gap
from gapbound.estimate_value import Estimate
from gapbound.eta import Windows
from gapbound.fit import RateFit, fit_rate
from gapbound.gap import reward_gap, sampler_error
from gapbound.gaussian import Gaussian
from gapbound.grid import grid
from gapbound.kernel import sampler_table
from gapbound.law import terminal_law
from gapbound.matched import matched_eta, matched_etas
from gapbound.mixture import GaussianMixture
from gapbound.moving_optimum import moving_optimum, moving_optimum_discrete
from gapbound.moving_windows import beta_schedule, equal_windows, moving_shift, sliding_windows
from gapbound.optimum import rl_optimum
from gapbound.optimum_line import line_optimum
from gapbound.pipeline_law import pipeline_law
from gapbound.process import VE, VP, FlowMatching, Process
from gapbound.rate import Rate, rate
from gapbound.regulator import rl_optimum_discrete
from gapbound.reuse import TransferGap, TransferWarning
from gapbound.reward import AbsoluteDeviation, Bump, Cosine, HalfSpace, Linear, Quadratic, Reward
from gapbound.signed_error import estimate_signed_error, signed_score_error, signed_step_errors
from gapbound.simulate import Simulation, simulate
from gapbound.tilt import tilt
from gapbound.transfer import transfer_correction, transfer_gap, transfer_weight, transferred

__all__ = [
    "VE",
    "VP",
    "AbsoluteDeviation",
    "AffineScore",
    "Bump",
    "Cosine",
    "Estimate",
    "FlowMatching",
    "GapBudget",
    "GapEstimate",
    "Gaussian",
    "GaussianMixture",
    "HalfSpace",
    "Linear",
    "Process",
    "Quadratic",
    "Rate",
    "RateFit",
    "Reward",
    "Simulation",
    "TransferGap",
    "TransferWarning",
    "Windows",
    "beta_schedule",
    "bounds",
    "discrete_law",
    "equal_windows",
    "estimate_gap",
    "estimate_signed_error",
    "fit_rate",
    "gap_budget",
    "grid",
    "guided",
    "line_optimum",
    "matched_eta",
    "matched_etas",
    "moving_optimum",
    "moving_optimum_discrete",
    "moving_shift",
    "pipeline_law",
    "rate",
    "reward_gap",
    "rl_optimum",
    "rl_optimum_discrete",
    "sampler_error",
    "sampler_table",
    "signed_score_error",
    "signed_step_errors",
    "simulate",
    "sliding_windows",
    "terminal_law",
    "tilt",
    "training",
    "transfer_correction",
    "transfer_gap",
    "transfer_weight",
    "transferred",
    "units",
    "updates",
]
