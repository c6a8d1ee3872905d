r"""The updates of policy-gradient fine-tuning as short pure functions, for closed-form and for image models alike.

Conventions, stated once:

- A step of a sampler is a policy N(mean, std^2 I). Its ``log_prob`` is the density's natural logarithm **summed** over
  the event (the last ``event_dims`` axes); the mean over the event's entries is kept beside it, because published clip
  ranges refer to it.
- A **log-ratio** is log p_new - log p_old of one step, summed unless told otherwise; a **clip** is a bound on the
  absolute value of that log-ratio, in the same units.
- A deterministic step (std = 0) has no density: it is refused, never a number.
- A reward that is NaN or infinite has failed: it is refused, or masked and counted, never 0.
- Densities, ratios and losses take float32 or float64 and refuse narrower tensors, in which every ratio would round to
  1. Rewards may be of any real dtype and are normalised in float32 at least.

References: Training Diffusion Models with Reinforcement Learning (DDPO; Black et al., 2023),
https://arxiv.org/abs/2305.13301; Flow-GRPO (Liu et al., 2025), https://arxiv.org/abs/2505.05470; Proximal Policy
Optimization Algorithms (Schulman et al., 2017), https://arxiv.org/abs/1707.06347.
"""

from gapbound.updates.advantage import (
    FAILED,
    SPREADS,
    Advantage,
    PromptBuffer,
    combined_advantage,
    group_advantage,
    prompt_advantage,
)
from gapbound.updates.policy import (
    LogProb,
    Surrogate,
    adapted_weight,
    clipped_surrogate,
    kl_rescaling,
    log_prob,
    log_ratio,
    ratio,
    require_on_policy,
    step_kl,
    summed_clip,
)

__all__ = [
    "FAILED",
    "SPREADS",
    "Advantage",
    "LogProb",
    "PromptBuffer",
    "Surrogate",
    "adapted_weight",
    "clipped_surrogate",
    "combined_advantage",
    "group_advantage",
    "kl_rescaling",
    "log_prob",
    "log_ratio",
    "prompt_advantage",
    "ratio",
    "require_on_policy",
    "step_kl",
    "summed_clip",
]
