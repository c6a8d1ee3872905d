"""One call and what came of it: an answer, a refusal in our words, or a defect."""

from __future__ import annotations

import dataclasses
import inspect
import linecache
import math
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

import gapbound as gb
from analysis.fuzz.surface import Entry, call, entries
from analysis.fuzz.values import TEMPERS

SLOW = 10.0  # seconds of processor time
STUCK = 20.0  # seconds of processor time after which a call is stopped
GIGABYTES = 1.5  # by which one call may raise the process's peak

#: Where infinity is documented: what it stands for.
INFINITE = {
    "sigma": "sigma_T of FlowMatching(1)",
    "snr": "snr at t = 0",
    "sigma_T": "FlowMatching(1)",
    "prior_variance": "the same",
    "prior_excess": "the same",
    "lipschitz": "no Lipschitz constant",
    "range": "unbounded rewards",
    "grid": "starts at sigma_T",
    "pure_noise_mean": "grows without bound for eta in (0, 1)",
    "interval": "an error that is inf",
    "in_dim": "holds lipschitz and range",
    "cuts": "windows reach inf",
    "Windows": "windows reach inf",
    "windows": "windows reach inf",
    "CallableReward": "lipschitz and range",
    "per_step": "windows",
    "estimate_gap": "variance_reduction where two runs coincide",
    "from_log": "a constant beyond floats, known by its logarithm",
    "Constant": "the same",
    "Estimate": "an error that is inf",
    "fisher_limit": "eta = 0",
    "best": "vacuous",
    "Bound": "vacuous",
    "chi_square": "vacuous",
    "total_variation": "vacuous",
    "wasserstein": "vacuous",
    "duhamel": "vacuous",
    "residual": "vacuous",
    "certify": "vacuous",
    "directions": "a CallableReward",
}

#: Results in which NaN is documented: what has not been recorded or reached.
MISSING = {"train", "train_sampled", "phase_diagram", "gradient_moments"}


class Verdict(NamedTuple):
    """``kind`` is "answer", "refusal" or what the defect is; ``detail`` says more."""

    name: str
    temper: str
    kind: str
    detail: str = ""
    seconds: float = 0.0

    @property
    def is_defect(self) -> bool:
        """Neither an answer nor a refusal."""
        return self.kind not in ("answer", "refusal")


class Stuck(BaseException):
    """Raised by the alarm; no handler of the library catches it."""


def judged(number: int, seed: int, only: str = "", watched: bool = True) -> Verdict:
    """Make and judge call ``number`` of a seed."""
    rng = random.Random(f"{seed}/{number}")
    entry = picked(rng, only)
    temper = rng.choices(list(TEMPERS), list(TEMPERS.values()))[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # np.matrix warns of itself where it is made
            function, positional, given = call(entry, rng, temper)
    except (TypeError, ValueError) as error:  # a precondition could not be built; its own entry judges why
        return Verdict(entry.name, temper, "refusal", f"unbuilt: {error}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    kind, detail = _outcome(entry, function, positional, given, temper, rng.random() < 0.5, watched)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    if kind in ("answer", "refusal") and watched:
        if seconds > SLOW:
            kind, detail = "slow", f"{seconds:.1f} s, {detail}"
        elif grown > GIGABYTES:
            kind, detail = "memory", f"{grown:.1f} GiB, {detail}"
    if kind not in ("answer", "refusal"):
        detail += f" :: {_text(positional, given)}"
    return Verdict(entry.name, temper, kind, detail, seconds)


def picked(rng: random.Random, only: str) -> Entry:
    """A public callable; the costly ones seldom."""
    known = [entry for entry in entries() if entry.name.startswith(only)] or list(entries())
    return rng.choices(known, [COST.get(entry.name, 1.0) for entry in known])[0]


#: How often what takes long is called, beside 1 for all others.
COST = {
    "training.phase_diagram": 0.05,
    "training.train": 0.2,
    "training.train_sampled": 0.2,
    "bounds.best": 0.15,
    "bounds.certify": 0.2,
    "bounds.residual": 0.3,
    "bounds.duhamel": 0.3,
    "bounds.chi_square": 0.3,
    "bounds.total_variation": 0.3,
    "bounds.wasserstein": 0.3,
    "line_optimum": 0.1,
    "estimate_gap": 0.5,
    "simulate": 0.5,
    "reward_gap": 1.0,
}


def _outcome(
    entry: Entry,
    function: Callable[..., Any],
    positional: tuple[Any, ...],
    given: dict[str, Any],
    temper: str,
    raising: bool,
    watched: bool,
) -> tuple[str, str]:
    state = {"all": "raise"} if raising else {"all": "warn"}
    try:
        with warnings.catch_warnings(), np.errstate(**state), _alarm(watched):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", gb.TransferWarning)  # documented: a correction that widens the gap
            result = function(*positional, **given)
            touched = list(_touched(result))
    except Stuck:
        return "slow", f"stopped after {STUCK} s"
    except Warning as error:
        return "warning", f"{type(error).__name__}: {error} at {_place(error)}"
    except (TypeError, ValueError) as error:
        return _refusal(error)
    except Exception as error:  # the very thing that is looked for
        return "foreign", f"{type(error).__name__}: {error} at {_place(error)}"
    name = entry.name.rpartition(".")[2]
    wanted = (entry.owner or function).__name__ if name.startswith("__") else name
    allowed = wanted in INFINITE or name in INFINITE
    for number in _numbers(result) if name not in MISSING else ():
        if math.isnan(number) or (math.isinf(number) and not allowed):
            return "not finite", f"{number} in {_short(result)}"
    del touched
    if isinstance(result, torch.Tensor) and temper == "ordinary" and not bool(torch.isfinite(result).all()):
        return "not finite", "a tensor of ordinary arguments"
    return "answer", ""


def _refusal(error: Exception) -> tuple[str, str]:
    """Whether the error was raised by a statement of ours and says something."""
    frames = _frames(error)
    module, line = frames[-1]
    text = f"{type(error).__name__}: {error}"
    own = any(name.startswith("gapbound") for name, _ in frames)
    if not own:
        return ("refusal", text) if "argument" in text else ("foreign", f"{text} at {_place(error)}")
    if not module.startswith("gapbound") and module not in ("analysis.fuzz.surface", "analysis.fuzz.values"):
        return "foreign", f"{text} at {_place(error)}"
    if module.startswith("gapbound") and not line.startswith("raise"):
        if "required positional argument" in text or "unexpected keyword" in text:
            return "refusal", text
        return "foreign", f"{text} at {_place(error)}"
    if len(text) > 3000:
        return "long", f"{len(text)} characters: {text[:200]}"
    return "refusal", text


def _touched(result: Any) -> Iterator[Any]:
    """What a user would look at first: the text of a result, and its properties."""
    yield repr(result)
    yield str(result)
    if type(result).__module__.startswith("gapbound") and not callable(result):
        for name in dir(type(result)):
            if not name.startswith("_") and isinstance(inspect.getattr_static(type(result), name), property):
                yield getattr(result, name)


def _numbers(result: Any, depth: int = 0) -> Iterator[float]:
    """All floating-point numbers in a result but those in tensors."""
    if isinstance(result, float | np.floating):
        yield float(result)
    elif isinstance(result, np.ndarray) and result.dtype.kind == "f" and result.size:
        yield from (float(part) for part in (result.min(), result.max()))
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _numbers(part, depth + 1)
    elif isinstance(result, Mapping):
        yield from _numbers(list(result.values()), depth + 1)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type) and depth < 3:
        holds_infinity = type(result).__name__ in ("Windows", "CallableReward", "FlowMatching")
        for field in () if holds_infinity else dataclasses.fields(result):
            yield from _numbers(getattr(result, field.name), depth + 1)


@contextmanager
def _alarm(watched: bool) -> Iterator[None]:
    if not watched:
        yield
        return

    def stop(*_: Any) -> None:
        raise Stuck

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, STUCK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Module and source line of every frame, outermost first, this module's own left out."""
    found, at = [], error.__traceback__
    while at is not None:
        module = at.tb_frame.f_globals.get("__name__", "")
        line = linecache.getline(at.tb_frame.f_code.co_filename, at.tb_lineno).strip()
        if module != __name__:
            found.append((module, line))
        at = at.tb_next
    return found or [("", "")]


def _place(error: BaseException) -> str:
    own = [
        (module, line)
        for module, line in _frames(error)
        if module.startswith("gapbound") and module != "gapbound._door"
    ]
    return " | ".join(f"{module}: {line}" for module, line in own[-2:])


def _text(positional: tuple[Any, ...], given: Mapping[str, Any]) -> str:
    parts = [_short(value) for value in positional] + [f"{name}={_short(value)}" for name, value in given.items()]
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) < 220 else text[:200] + "..."
