r"""What theory expects of a measurement: how much sharing x_T reduces the variance of a gap.

The latents of an autoencoder have about unit variance by construction, so the model is read as N(0, 1), the reward as
linear, and the steps as many. ODE and SDE from the same x_T then have the correlation

.. math:: \rho^{\eta^2 / 2}, \qquad \rho = \frac{1 + \sigma_0^2}{1 + \sigma_T^2}

between the first noise level sigma_T and the last sigma_0, so that one SDE run per ODE run reduces the variance by
1 / (1 - correlation): little is gained once eta reaches 1, and nothing for flow matching from t = 1. What is measured
on images may differ; the two stand beside each other.
"""

from __future__ import annotations

import math

import numpy as np

import gapbound as gb
from gapbound.pairing import predicted_reduction


def expected_reduction(first: float, last: float, eta: float, draws: int) -> float:
    """Variance of independent runs over that of pairs.

    Args:
        first: noise-to-signal ratio where the runs begin; inf for flow matching from t = 1.
        last: where they end.
        eta: of the SDE runs.
        draws: SDE runs per x_T.
    """
    # any variance-preserving process that starts there; x_T is standard normal in all of them
    process = gb.FlowMatching() if math.isinf(first) else gb.VP(math.sqrt(math.log1p(first**2)))
    sigmas = np.array([float(process.sigma_T), last])
    found = predicted_reduction(gb.Gaussian(0.0, 1.0), process, gb.Linear(1.0), "exact", sigmas, 0.0, eta, draws)
    return float(found)  # a number: the model is a Gaussian, the reward linear
