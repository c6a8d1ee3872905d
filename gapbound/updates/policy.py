"""The policy of one step: its log-density, ratios of it, the clipped loss, and the KL to a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gapbound._door import door
from gapbound._tensors import finite_tensor, mask_tensor, wide_tensor
from gapbound._validate import Array, broadcastable, count, non_negative, number, positive, real
from gapbound.eta import checked
from gapbound.kernel import step

LARGEST_COUNT = 2**53  # of the entries of a sample: whole numbers below are exact in float64


@dataclass(frozen=True)
class LogProb:
    """Log-density of a step: summed over the event, and the mean over its entries; shapes of the batch."""

    total: Tensor
    per_entry: Tensor


@door()
def log_prob(x: Tensor, mean: Tensor, std: float | Tensor, event_dims: int = 1) -> LogProb:
    r"""Log-density of the outcome ``x`` of a step N(mean, std^2 I).

    .. math:: \log p = -\sum_i \Big[ \frac{(x_i - \mu_i)^2}{2 s^2} + \log s + \tfrac12 \log 2\pi \Big]

    Args:
        x: outcome exactly as stored, float32 or float64, shape (\*batch, \*event).
        mean: of the step, float32 or float64, broadcasts to the shape of x.
        std: positive, a number or a tensor that broadcasts to the shape of x.
        event_dims: how many trailing axes are the event; 3 for latents (B, C, H, W).

    Raises:
        ValueError: std is 0 or less: a deterministic step has no density; a tensor narrower than float32; event_dims
            or shapes that do not fit x; a density that is not finite.
        TypeError: x or mean is no tensor of real numbers, std no number.
    """
    x, mean = wide_tensor("x", x), wide_tensor("mean", mean)
    axes, s = _event(x, event_dims), _stochastic(std, x)
    _fits("mean and std", x, mean, s)
    entries = -(((x - mean) / s) ** 2) / 2 - s.log() - math.log(2 * math.pi) / 2
    total = finite_tensor("the log-density", entries.sum(axes), "x, mean and std must be finite and of similar size")
    return LogProb(total, entries.mean(axes))


@door()
def log_ratio(new: Tensor, old: Tensor) -> Tensor:
    """``log p_new - log p_old`` of the same outcome, shape of both; its gradient is that of ``new``.

    Raises:
        ValueError: shapes differ, a tensor narrower than float32, or the difference is NaN or infinite.
        TypeError: no tensors of real numbers.
    """
    new, old = wide_tensor("new", new), wide_tensor("old", old)
    if new.shape != old.shape:
        raise ValueError(f"the log-densities must have one shape, got {tuple(new.shape)} and {tuple(old.shape)}")
    difference = new - old.detach()
    return finite_tensor("the log-ratio", difference, "store means, stds and outcomes in float32 or wider")


@door()
def ratio(log_ratio: Tensor) -> Tensor:
    """``exp(log_ratio)``, the importance weight of each step.

    Raises:
        ValueError: it would overflow: the policy has moved too far from the one that sampled; a tensor narrower than
            float32.
        TypeError: no tensor of real numbers.
    """
    limit = _largest_log_ratio(wide_tensor("log_ratio", log_ratio))
    worst = float(log_ratio.detach().max()) if log_ratio.numel() else 0.0
    if math.isnan(worst):
        raise ValueError("a log-ratio is NaN; mask the sample, or store means, stds and outcomes in float32 or wider")
    if worst > limit:
        raise ValueError(
            f"a log-ratio of {worst:g} overflows; the policy moved too far since it sampled: take fewer updates per "
            "sample or a smaller learning rate"
        )
    return log_ratio.exp()


@door()
def require_on_policy(log_ratio: Tensor, tolerance: float = 1e-5) -> None:
    """Refuse to train where the ratio is not 1 before the first update, per sample and step.

    Raises:
        ValueError: a log-ratio exceeds ``tolerance`` in absolute value; there is none to check, which proves nothing.
        TypeError: no tensor of real numbers.
    """
    limit = number("tolerance", tolerance, positive)
    if not wide_tensor("log_ratio", log_ratio).numel():
        raise ValueError(f"there is no log-ratio to check, got shape {tuple(log_ratio.shape)}; score a stored sample")
    worst = float(log_ratio.detach().abs().max())
    if not worst <= limit:
        raise ValueError(
            f"before the first update every ratio must be 1, but a log-ratio is {worst:g} (tolerance {tolerance:g}); "
            "score the stored sample with the same precision, guidance, batch and eval mode as when it was drawn"
        )


@dataclass(frozen=True)
class Surrogate:
    """The loss to minimise, and the fraction of its terms whose gradient the clip removed."""

    loss: Tensor
    clipped: float


@door()
def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float, kept: Tensor | None = None) -> Surrogate:
    r"""The clipped loss of PPO, as DDPO and GRPO use it on every step.

    .. math:: -\operatorname{mean} \min\big( \rho A, \; \operatorname{clamp}(\rho, e^{-c}, e^{c}) \, A \big),
        \qquad \rho = e^{\text{log-ratio}}

    ``clip`` c bounds the log-ratio as it is given: summed with a summed log-ratio. DDPO's 1e-4 refers to the per-entry
    mean; ``summed_clip`` converts. PPO's own interval [1 - c, 1 + c] differs from ours by c^2 / 2.

    Args:
        log_ratio: shape (\*steps, n).
        advantage: shape (n,) or one that broadcasts to that of log_ratio.
        clip: positive.
        kept: mask of the samples that count, shape of ``advantage``; all if None. The others are not looked at: their
            ratios may overflow and their advantages be NaN.

    Raises:
        ValueError: clip is not positive, or so large that a ratio inside it overflows; nothing is kept; a ratio
            overflows; an advantage or the loss is not finite; shapes do not fit; a tensor narrower than float32.
        TypeError: no tensors of real numbers, a mask that is not boolean.
    """
    change, advantage = wide_tensor("log_ratio", log_ratio), wide_tensor("advantage", advantage)
    c, largest = number("clip", clip, positive), _largest_log_ratio(change)
    if not c <= largest:
        raise ValueError(f"clip must be at most {largest:.4g}, beyond which ratios overflow {change.dtype}, got {c:g}")
    mask = torch.ones_like(advantage, dtype=torch.bool) if kept is None else kept
    _fits("advantage", change, advantage)
    mask = mask_tensor("kept", mask, advantage.shape).expand_as(change)
    if not bool(mask.any()):
        raise ValueError("no sample has an advantage; skip this update (every group had zero spread or failed)")
    change, A = change[mask], finite_tensor("advantage", advantage.expand_as(change)[mask], "mask them by kept")
    rho = ratio(change)
    terms = torch.minimum(rho * A, rho.clamp(math.exp(-c), math.exp(c)) * A)
    outside = ((change > c) & (A > 0)) | ((change < -c) & (A < 0))
    loss = finite_tensor("the loss", -terms.mean(), "use smaller advantages")
    return Surrogate(loss, float(outside.double().mean()))


@door()
def summed_clip(per_entry: float, entries: int) -> float:
    """A clip on the per-entry mean log-ratio, in units of the summed one: 1e-4 at 16,384 entries is 1.64.

    Raises:
        ValueError: the clip is not positive, or entries is below 1 or above 2^53.
        TypeError: something that is no number.
    """
    if count("entries", entries) > LARGEST_COUNT:
        raise ValueError(f"entries must be at most {LARGEST_COUNT}, got {entries}")
    return number("per_entry", per_entry, positive) * entries


@door()
def step_kl(mean: Tensor, mean_ref: Tensor, std: float | Tensor, event_dims: int = 1) -> Tensor:
    r"""KL of N(mean, std^2 I) to N(mean_ref, std^2 I): ``|mean - mean_ref|^2 / (2 std^2)``, summed over the event.

    Args:
        mean: float32 or float64, shape (\*batch, \*event).
        mean_ref: likewise, broadcasts to the shape of mean.
        std: positive, a number or a tensor that broadcasts to the shape of mean.
        event_dims: how many trailing axes are the event.

    Raises:
        ValueError: std is 0 or less: between different deterministic steps the KL is infinite; shapes that do not fit,
            a tensor narrower than float32, a KL that is not finite.
        TypeError: no tensors of real numbers, std no number.
    """
    mean, mean_ref = wide_tensor("mean", mean), wide_tensor("mean_ref", mean_ref)
    axes, s = _event(mean, event_dims), _stochastic(std, mean)
    _fits("mean_ref and std", mean, mean_ref, s)
    kl = (((mean - mean_ref) / s) ** 2 / 2).sum(axes)
    return finite_tensor("the KL", kl, "the means must be finite, and not too many stds apart")


@door()
def adapted_weight(weight: float, kl: float, target: float, factor: float = 1.5) -> float:
    """The KL's weight for the next epoch, the adaptive penalty of PPO.

    Raised by ``factor`` where ``kl`` exceeds ``factor * target``, lowered by it where ``kl`` is below
    ``target / factor``, else kept.

    Raises:
        ValueError: weight, target or factor is not positive, factor is not above 1, or kl is negative or not finite.
    """
    w, t, f = (number(*named, positive) for named in (("weight", weight), ("target", target), ("factor", factor)))
    met = number("kl", kl, non_negative)
    if not f > 1:
        raise ValueError(f"factor must be above 1, got {factor}")
    return w * f if met > f * t else w / f if met < t / f else w


@door()
def kl_rescaling(sigma: Any, sigma_next: Any, eta: Any) -> Array:
    r"""What multiplies a gDDIM step's KL at ``eta`` to give the KL that eta = 1 would pay for the same change of model.

    A change d eps moves the step's mean by (sigma - carry) d eps, so the KL is (sigma - carry)^2 |d eps|^2 / (2 std^2),
    and with carry = sigma' k, std^2 = sigma'^2 (1 - k^2), k = (sigma'/sigma)^(eta^2), h = sigma^2 - sigma'^2:

    .. math:: \frac{KL(1)}{KL(\eta)} = \frac{h \, (1 - k^2)}{(\sigma - \sigma' k)^2}
        \;\longrightarrow\; \frac{4 \eta^2}{(1 + \eta^2)^2} \quad \text{for small steps}

    The limit is the continuous-time statement: the path KL is (1 + eta^2)^2 / (8 eta^2) int E|d score|^2 dtau, smallest
    at eta = 1. Raw KL does not compare between runs of different eta; rescaled KL does, up to the states over which it
    is averaged: at finite N and sigma_T a sampler of larger eta visits states where one and the same change is smaller.

    Args:
        sigma: noise level at the start of the step, finite.
        sigma_next: at its end, positive and below sigma.
        eta: positive, or ``Windows``; broadcasts.

    Raises:
        ValueError: a deterministic step (eta = 0 or sigma_next = 0), whose KL is infinite or 0; levels that rise, or
            lie so far apart or so near that the factor cannot be represented.
    """
    high, low = positive("sigma", sigma), positive("sigma_next", sigma_next)
    if not (low < high).all():
        raise ValueError(f"noise levels must fall, got sigma={sigma} and sigma_next={sigma_next}")
    kernel = step("gddim", high, low, checked(eta))
    if not (kernel.std > 0).all():
        raise ValueError(f"a deterministic step has no KL to rescale, got eta={eta}; leave it out")
    drop = high - kernel.carry
    return ((high - low) / drop) * ((high + low) / drop) * (kernel.std / low) ** 2


def _event(x: Tensor, event_dims: int) -> tuple[int, ...]:
    if count("event_dims", event_dims) > x.ndim:
        raise ValueError(f"event_dims must be at most the number of axes, got {event_dims} for shape {tuple(x.shape)}")
    if 0 in x.shape[-event_dims:]:
        raise ValueError(f"an event must have at least one entry, got shape {tuple(x.shape)}")
    return tuple(range(-event_dims, 0))


def _stochastic(std: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(std, Tensor):
        s = wide_tensor("std", std).to(dtype=like.dtype, device=like.device)
    else:
        s = torch.as_tensor(real("std", std), dtype=like.dtype, device=like.device)
    if not bool((torch.isfinite(s) & (s > 0)).all()):
        raise ValueError(
            f"std must be positive and finite, got {float(s.min()):g}: a deterministic step (eta = 0, or the last one "
            "to sigma = 0) has no density and carries no policy gradient; leave it out"
        )
    return s


def _fits(what: str, target: Tensor, *others: Tensor) -> None:
    """Refuse tensors that do not broadcast to the shape of ``target``."""
    own = tuple(target.shape)
    shape = broadcastable(f"{what} and the tensor they belong to", own, *(tuple(other.shape) for other in others))
    if shape != own:
        raise ValueError(f"{what} must broadcast to the shape {own}, got {shape}")


def _largest_log_ratio(values: Tensor) -> float:
    """Half the largest exponent of the dtype, so that products with advantages stay finite too."""
    return math.log(torch.finfo(values.dtype).max) / 2
