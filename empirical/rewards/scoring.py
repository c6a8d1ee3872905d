"""How a reward is called: inputs checked, result checked, failures named by image and prompt, or masked and counted.

A reward **fails** on an image where it raises, or gives NaN or an infinity. A result of the wrong shape or kind is no
failure of an image but a wrong reward, and is never masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from empirical.rewards.images import checked
from gapbound._validate import count

Reward = Callable[[Tensor, Sequence[str]], Any]  # (images, prompts) -> (batch,)


class RewardError(ValueError):
    """A reward that failed.

    Attributes:
        index: of the image, None if the whole batch is at fault.
        prompt: of that image, None likewise.
    """

    def __init__(self, message: str, index: int | None = None, prompt: str | None = None) -> None:
        """The message, and where."""
        super().__init__(message)
        self.index, self.prompt = index, prompt


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch, where some may have failed.

    Attributes:
        value: float32, shape (batch,); NaN where ``valid`` is False, which ``gapbound.updates`` masks with
            ``failed="mask"``.
        valid: mask of the images that have a reward.
        failures: one message per failed image, in order; empty if none failed.
    """

    value: Tensor
    valid: Tensor
    failures: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many images have no reward."""
        return int((~self.valid).sum())


def name_of(reward: Any) -> str:
    """What to call a reward in messages and records: its ``name``, or that of its function or class."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def values(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The reward of each image, float32 of shape (batch,) on the images' device, without gradient; may hold NaN.

    Raises:
        RewardError: the result is not one real number per image.
    """
    with torch.no_grad():
        result = reward(images, list(prompts))
    try:
        found = torch.as_tensor(result)
    except (TypeError, ValueError, RuntimeError):
        raise RewardError(_wrong(reward, images, f"a {type(result).__name__}")) from None
    if found.shape != (len(images),) or found.is_complex():
        kind = "complex numbers of " if found.is_complex() else ""
        raise RewardError(_wrong(reward, images, f"{kind}shape {tuple(found.shape)}"))
    return found.detach().to(images.device, torch.float32)


def score(reward: Reward, images: Tensor, prompts: Sequence[str], batch_size: int | None = None) -> Tensor:
    """The reward of each image; any failure raises.

    Args:
        reward: any callable (images, prompts) -> one number per image.
        images: floating, shape (batch, 3, H, W), in [0, 1].
        prompts: ``batch`` of them.
        batch_size: how many images the reward sees at once; all if None.

    Returns:
        float32, shape (batch,), on the images' device.

    Raises:
        RewardError: the reward raised or gave NaN or an infinity: image index and prompt are named; or the result has
            the wrong shape.
        TypeError, ValueError: images or prompts that no reward takes.
    """
    found = []
    for start, part, words in _batches(images, prompts, batch_size):
        batch, errors = _attempt(reward, start, part, words)
        if errors:
            raise errors[0] from errors[0].__cause__
        found.append(batch)
    return torch.cat(found)


def score_masked(reward: Reward, images: Tensor, prompts: Sequence[str], batch_size: int | None = None) -> Scores:
    """The reward of each image, failures masked and counted; where a batch raises, each of its images is tried alone.

    Takes what ``score`` takes.

    Raises:
        RewardError: the result has the wrong shape, or every image failed: that is no failure to train through.
        TypeError, ValueError: images or prompts that no reward takes.
    """
    found, messages = [], []
    for start, part, words in _batches(images, prompts, batch_size):
        batch, errors = _attempt(reward, start, part, words, every=True)
        found.append(batch)
        messages += [str(error) for error in errors if error.index is not None]
    value = torch.cat(found)
    valid = torch.isfinite(value)
    if not bool(valid.any()):
        raise RewardError(f"the reward failed on all {len(value)} images, so nothing is left to mask; {messages[0]}")
    return Scores(value.masked_fill(~valid, torch.nan), valid, tuple(messages))


def _batches(images: Any, prompts: Any, batch_size: int | None) -> list[tuple[int, Tensor, list[str]]]:
    """(first index, images, prompts) of each batch, after checking them."""
    checked(images)
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"prompts must be a list of strings, one per image, got {prompts!r}")
    if len(prompts) != len(images):
        raise ValueError(f"need one prompt per image, got {len(prompts)} prompts and {len(images)} images")
    size = len(images) if batch_size is None else count("batch_size", batch_size)
    return [(i, images[i : i + size], list(prompts[i : i + size])) for i in range(0, len(images), size)]


def _attempt(
    reward: Reward, start: int, images: Tensor, prompts: list[str], every: bool = False
) -> tuple[Tensor, list[RewardError]]:
    """The values of a batch, NaN where it failed, and the errors; without ``every`` the search ends at the first one.

    A batch that raises is tried image by image, so that the error can name the image.
    """
    try:
        found = values(reward, images, prompts)
    except RewardError:
        raise
    except Exception as error:
        return _one_by_one(reward, start, images, prompts, every, error)
    at_fault = (~torch.isfinite(found)).nonzero().flatten().tolist()
    return found, [_failed(reward, start + i, prompts[i], f"gave {float(found[i])}") for i in at_fault]


def _one_by_one(
    reward: Reward, start: int, images: Tensor, prompts: list[str], every: bool, error: Exception
) -> tuple[Tensor, list[RewardError]]:
    found, errors = torch.full((len(images),), torch.nan, dtype=torch.float32, device=images.device), []
    for i, prompt in enumerate(prompts):
        try:
            found[i] = values(reward, images[i : i + 1], [prompt])[0]
        except Exception as own:
            errors.append(_failed(reward, start + i, prompt, f"raised {type(own).__name__}: {own}", own))
        else:
            if not bool(torch.isfinite(found[i])):
                errors.append(_failed(reward, start + i, prompt, f"gave {float(found[i])}"))
        if errors and not every:
            return found, errors
    if not errors:
        together = RewardError(
            f"the reward {name_of(reward)} raised on images {start} to {start + len(images) - 1} together, though on "
            f"none alone ({type(error).__name__}: {error}); lower batch_size if memory ran out"
        )
        together.__cause__ = error
        errors.append(together)
    return found, errors


def _failed(reward: Reward, index: int, prompt: str, how: str, cause: Exception | None = None) -> RewardError:
    error = RewardError(f"the reward {name_of(reward)} {how} on image {index}, prompt {prompt!r}", index, prompt)
    error.__cause__ = cause
    return error


def _wrong(reward: Reward, images: Tensor, got: str) -> str:
    return (
        f"the reward {name_of(reward)} must give one number per image, shape ({len(images)},), got {got} for "
        f"{len(images)} images"
    )
