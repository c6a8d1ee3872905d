"""Everything public in gapbound as calls, found by looking: functions, constructors, methods, properties."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

import gapbound as gb
from analysis.fuzz.values import Draw, wrong
from gapbound import affine, optimum, regulator, schedule, transfer
from gapbound.expectation import CallableReward
from gapbound.kernel import SAMPLERS
from gapbound.schedule import STABLE_DIFFUSION

MODULES = (gb, gb.bounds, gb.training, gb.updates, gb.units)
SPECIAL = ("__call__", "__str__", "__repr__", "__float__")
GRIDS = ("time", "time", "sigma", "log-sigma", "karras", "leading", "nonsense")

#: Value objects that public functions return and whose methods are public, though their names are not.
MORE = (
    affine.Guided,
    optimum.RLOptimum,
    regulator.RLOptimumDiscrete,
    transfer.Transferred,
    CallableReward,
    schedule.DiscreteRate,
)

ABSTRACT = {gb.AffineScore, gb.Process, gb.Reward}

Maker = Callable[[Draw], Any]


def _optional(make: Maker, share: float = 0.4) -> Maker:
    return lambda draw: make(draw) if draw.rng.random() < share else None


def _sigmas(draw: Draw) -> Any:
    return draw.falling(draw.known.get("process") or gb.VE(3.0)) if draw.rng.random() < 0.3 else None


def _moving(draw: Draw) -> Any:
    return [
        gb.Windows([(1.0, 3.0, draw.rng.choice([0.5, 1.0]))]),
        gb.Windows([(0.1, 1.0, draw.rng.choice([0.5, 1.0]))]),
    ]


def _config(draw: Draw) -> Any:
    change: dict[str, Any] = draw.rng.choice(
        [
            {},
            {"beta_schedule": "linear"},
            {"beta_schedule": "squaredcos_cap_v2"},
            {"timestep_spacing": "trailing"},
            {"set_alpha_to_one": draw.rng.choice([True, "False"])},
            {"num_train_timesteps": draw.whole(10, 100)},
            {"trained_betas": [0.1, 0.2]},
            {"beta_start": draw.positive(-4, 0)},
            {"rescale_betas_zero_snr": True},
        ]
    )
    return STABLE_DIFFUSION | change


def _advantage(draw: Draw) -> Any:
    value = draw.tensor(4)
    return gb.updates.Advantage(value, torch.ones(4, dtype=torch.bool), 0, 0)


#: What each parameter is made of, by its name.
MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("mean", "c", "w", "omega", "b"), Draw.vector),
    **dict.fromkeys(("threshold", "const", "phase", "weight", "value", "slope", "shift"), Draw.number),
    **dict.fromkeys(
        ("T", "h", "beta", "variance", "tau", "a", "e", "eta_k", "kl", "min_z", "floor", "target_kl"),
        lambda d: d.many(d.positive),
    ),
    **dict.fromkeys(
        ("rho", "sigma_min", "rate", "clip", "clamp", "factor", "tolerance", "per_entry", "std"),
        lambda d: d.positive(-2, 0.5),
    ),
    **dict.fromkeys(("gamma", "eta_cps", "eta_ddim", "t", "t_max"), lambda d: d.many(lambda: d.positive(-2, -0.01))),
    **dict.fromkeys(("gap", "x"), lambda d: np.array([d.positive() for _ in range(4)])),
    **dict.fromkeys(("standard_error",), lambda d: np.array([d.positive(-3, -2) for _ in range(4)])),
    **dict.fromkeys(("sigma", "sigma_T"), lambda d: d.many(d.positive)),
    **dict.fromkeys(("eta", "etas"), Draw.eta),
    **dict.fromkeys(("seed", "draw"), lambda d: d.whole(0, 1, 2)),
    **dict.fromkeys(("n", "entries"), lambda d: d.whole(1, 4, 100)),
    **dict.fromkeys(
        ("steps", "ode_steps", "sde_steps", "iterations", "every", "points", "panels", "width"),
        lambda d: d.whole(1, 2, 5, 10),
    ),
    **dict.fromkeys(
        ("sampler", "ode_sampler", "sde_sampler"), lambda d: d.rng.choice([*SAMPLERS, "gddim", "nonsense"])
    ),
    **dict.fromkeys(("grid", "kind"), lambda d: d.rng.choice(GRIDS)),
    **dict.fromkeys(("sigmas", "ode_sigmas", "sde_sigmas"), _sigmas),
    **dict.fromkeys(("process", "sde_process"), Draw.process),
    **dict.fromkeys(("reference", "unguided"), Draw.gaussian),
    **dict.fromkeys(("other", "unconditional", "conditional"), Draw.gaussian),
    **dict.fromkeys(("z",), Draw.points),
    **dict.fromkeys(("log_ratio", "new", "old", "advantage", "mean_ref"), lambda d: d.tensor(4, 1)),
    **dict.fromkeys(("device",), lambda d: d.rng.choice(["cpu", "cpu", torch.device("cpu"), "nowhere", "cuda:9"])),
    **dict.fromkeys(("dtype",), lambda d: d.rng.choice([torch.float32, torch.float64, torch.float16, torch.int64])),
    **dict.fromkeys(("trajectory", "affine", "decay", "rescale_beta"), lambda d: d.rng.choice([True, False])),
    "cov": lambda d: d.matrix() if d.dim > 1 and d.rng.random() < 0.3 else d.positive(),
    "weights": lambda d: [0.25, 0.75],
    "means": lambda d: [d.number(), d.number()],
    "covs": lambda d: d.positive(),
    "A": lambda d: d.number() if d.rng.random() < 0.6 else d.matrix(),
    "windows": lambda d: [(d.positive(-2, -1), d.positive(-1, 1), d.positive(-1, 0.5))],
    "alphas_cumprod": lambda d: sorted({d.positive(-3, -0.01) for _ in range(4)}, reverse=True),
    "config": _config,
    "spacing": lambda d: d.rng.choice(["leading", "trailing", "linspace", "nonsense"]),
    "dim": lambda d: d.whole(d.dim, d.dim, 1, 7),
    "law": Draw.law,
    "level": lambda d: d.positive(-1, -0.01),
    "error": lambda d: d.positive(-5, -1),
    "method": lambda d: d.rng.choice(["quadrature", "monte carlo", "auto", "lanczos", "nonsense"]),
    "exponent": _optional(Draw.number, 0.9),
    "next_exponent": _optional(Draw.number),
    "constant": Draw.number,
    "variable": lambda d: d.rng.choice(["T", "alpha_bar_T", "sigma_T"]),
    "of": lambda d: d.rng.choice(["gap", "error"]),
    "target": Draw.target,
    "model": Draw.target,
    "reward": Draw.any_reward,
    "eta_ref": lambda d: d.eta(many=False) if d.rng.random() < 0.5 else 0.0,
    "t_min": lambda d: 0.0 if d.rng.random() < 0.6 else d.positive(-3, -0.5),
    "scale": lambda d: d.many(lambda: 3 * d.number()),
    "draws": lambda d: d.whole(1, 2),
    "noise": lambda d: None,
    "chunk": _optional(lambda d: d.whole(1, 10, 1000)),
    "log_prob": lambda d: d.rng.choice([True, False]),
    "optimum": Draw.optimum,
    "cap": _optional(lambda d: d.positive(0, 1)),
    "sigma_next": lambda d: d.below("sigma"),
    "score_model": Draw.score_model,
    "score": Draw.score_model,
    "one": Draw.score_model,
    "target_or_samples": lambda d: d.law() if d.rng.random() < 0.6 else d.tensor(50, d.dim),
    "task": Draw.task,
    "policy": Draw.policy,
    "walk": lambda d: None,
    "optimizer": lambda d: d.rng.choice(["adam", "sgd", "nonsense"]),
    "form": lambda d: d.rng.choice(["grpo", "ddpo", "nonsense"]),
    "group": lambda d: d.whole(2, 4),
    "epochs": lambda d: d.whole(1, 2),
    "lengths": lambda d: [2, 4],
    "betas": lambda d: [0.0, d.positive()],
    "fractions": lambda d: [0.5, 1.0],
    "progress": lambda d: lambda share: None,
    "failed": lambda d: d.rng.choice(["raise", "mask", "nonsense"]),
    "spread": lambda d: d.rng.choice(["group", "global", "batch", "nonsense"]),
    "buffer": lambda d: gb.updates.PromptBuffer(4, 2),
    "prompts": lambda d: ["a", "b", "a", "b"],
    "parts": lambda d: {"a": _advantage(d)},
    "event_dims": lambda d: d.whole(1, 2, 3),
    "kept": _optional(lambda d: torch.ones(4, 1, dtype=torch.bool)),
    "size": lambda d: d.whole(2, 32),
    "at_least": lambda d: d.whole(1, 2),
    "rewards": lambda d: {},
    "flat": lambda d: 0,
    "clamped": lambda d: 0,
    "function": lambda d: d.rng.choice([lambda x: x[..., 0], lambda x: x]),
    "lipschitz": lambda d: d.positive(),
    "range": lambda d: (-d.positive(), d.positive()),
    "steps_offset": lambda d: d.whole(0, 1),
    "set_alpha_to_one": lambda d: d.rng.choice([True, False]),
    "factors": lambda d: d.positive(-0.5, 0.5),
    "cycles": _optional(lambda d: d.whole(1, 2, 3)),
    "stride": lambda d: d.whole(1, 2),
    "per_window": lambda d: d.rng.choice([True, False]),
    "name": lambda d: "C",
    "source": lambda d: "here",
    "log": Draw.number,
    "fraction": lambda d: d.positive(-2, 0),
}

_kl_kind: Maker = lambda d: d.rng.choice(["path", "step", "nonsense"])  # noqa: E731
_tensor_of_points: Maker = lambda d: d.tensor(4, d.dim)  # noqa: E731

#: Where a name means something else in one function.
SPECIFIC: dict[str, Maker] = {
    "sliding_windows.sigmas": lambda d: [3.0, 2.0, 1.0, 0.5, 0.0],
    "sliding_windows.eta": lambda d: d.positive(-1, 0.3),
    "moving_optimum.windows": _moving,
    "moving_optimum_discrete.windows": _moving,
    "moving_shift.windows": _moving,
    "beta_schedule.windows": _moving,
    "moving_optimum.reward": Draw.affine_reward,
    "moving_optimum_discrete.reward": Draw.affine_reward,
    "matched_eta.reward": Draw.affine_reward,
    "matched_etas.reward": Draw.affine_reward,
    "Constant.value": lambda d: d.positive(),
    "Constant.kind": lambda d: d.rng.choice(["closed form", "numerical", "cited upper bound", "nonsense"]),
    "Constant.from_log.kind": lambda d: d.rng.choice(["closed form", "numerical", "cited upper bound", "nonsense"]),
    "VP.beta": lambda d: d.rng.choice(["2t", "constant", "linear", "cosine", "nonsense"]),
    "Estimate.value": lambda d: d.many(d.number),
    "Rate.__call__.value": lambda d: d.many(d.positive),
    "updates.log_prob.x": _tensor_of_points,
    "updates.log_prob.mean": _tensor_of_points,
    "updates.log_prob.std": lambda d: d.positive(),
    "updates.step_kl.mean": _tensor_of_points,
    "updates.step_kl.mean_ref": _tensor_of_points,
    "updates.step_kl.std": lambda d: d.positive(),
    "updates.group_advantage.reward": lambda d: d.tensor(3, 4),
    "updates.prompt_advantage.reward": lambda d: d.tensor(4),
    "updates.combined_advantage.weights": lambda d: {"a": d.number()},
    "updates.adapted_weight.target": lambda d: d.positive(),
    "updates.adapted_weight.kl": lambda d: d.positive(),
    "updates.adapted_weight.weight": lambda d: d.positive(),
    "Advantage.value": lambda d: d.tensor(4),
    "Advantage.kept": lambda d: torch.ones(4, dtype=torch.bool),
    "Advantage.failed": lambda d: 0,
    "PromptBuffer.extended.rewards": lambda d: [d.number() for _ in range(4)],
    "training.objective.kl": _kl_kind,
    "training.train.kl": _kl_kind,
    "bounds.one_sided_lipschitz.z": _tensor_of_points,
    "bounds.one_sided_lipschitz.sigma": lambda d: d.positive(),
    "bounds.score_error.sigmas": lambda d: [d.positive(), d.positive()],
    "bounds.score_difference.sigmas": lambda d: [d.positive()],
    "bounds.score_difference.other": Draw.score_model,
    "bounds.directions.target": lambda d: d.law(),
    "line_optimum.reference": lambda d: d.law(),
    "line_optimum.of": lambda d: None,
    "line_optimum.weights": lambda d: [d.positive(-1, 0.3)],
    "tilt.reference": lambda d: d.law(),
    "tilt.reward": Draw.affine_reward,
    "rate.reward": Draw.affine_reward,
    "rate.target": lambda d: d.gaussian(batch=False),
    "rate.process": lambda d: d.process(many=False),
    "rate.eta": lambda d: d.eta(many=False),
    "rl_optimum.reward": Draw.affine_reward,
    "rl_optimum_discrete.reward": Draw.affine_reward,
    "rl_optimum_discrete.eta": lambda d: d.eta(many=False),
    "rl_optimum_discrete.process": lambda d: d.process(many=False),
    "terminal_law.target": Draw.model,
    "discrete_law.model": Draw.model,
    "gap_budget.model": Draw.model,
    "sampler_error.target": Draw.gaussian,
    "pipeline_law.model": Draw.gaussian,
    "pipeline_law.eta": lambda d: d.positive(),
    "gap_budget.reward": Draw.reward,
    "training.phase_diagram.etas": lambda d: [d.positive(-1, 0.3)],
    "training.phase_diagram.steps": lambda d: [2, 3],
    "training.phase_diagram.sigma_T": lambda d: [d.positive(0, 1)],
    "training.phase_diagram.reward": Draw.affine_reward,
    "training.phase_diagram.policy": lambda d: d.rng.choice(["per-step", "consistent"]),
    "training.phase_diagram.reference": lambda d: gb.Gaussian(d.number(), d.calm().positive()),
    "Task.reference": lambda d: gb.Gaussian(d.number(), d.calm().positive()),
    "Task.grid": lambda d: d.rng.choice(["time", "karras"]),
    "Task.beta": lambda d: d.positive(),
    "Task.walk.eta": _optional(lambda d: d.positive(-1, 0.3)),
    "Task.reward": Draw.affine_reward,
    "units.per_step.sigmas": lambda d: [3.0, 1.0, 0.0],
    "units.per_step.etas": lambda d: [d.positive(-1, 0.4), d.positive(-1, 0.4)],
    "transfer_weight.reference": lambda d: d.gaussian() if d.rng.random() < 0.5 else d.positive(),
    "transfer_weight.eta": lambda d: d.eta(many=False),
    "transferred.variance": _optional(lambda d: d.positive()),
    "simulate.n": lambda d: d.whole(1, 10, 100),
    "estimate_gap.n": lambda d: d.whole(2, 10, 100),
    "bounds.certify.n": lambda d: d.whole(8, 64),
    "RLOptimum.control.eta": lambda d: None,
    "RLOptimumDiscrete.sampled.sampler": _optional(lambda d: d.rng.choice(["gddim", "ddim", "heun"])),
    "RLOptimumDiscrete.sampled.eta": _optional(lambda d: d.positive(-1, 0.3)),
    "RLOptimumDiscrete.gain.sigma": lambda d: d.rng.choice(list(d.known["self"].sigmas)),
    "RLOptimumDiscrete.offset.sigma": lambda d: d.rng.choice(list(d.known["self"].sigmas)),
}

#: What an object of a class is made by, where that is not its constructor.
INSTANCES: dict[type, Maker] = {
    gb.Gaussian: Draw.gaussian,
    gb.GaussianMixture: Draw.mixture,
    affine.Guided: Draw.guided,
    optimum.RLOptimum: Draw.optimum,
    regulator.RLOptimumDiscrete: Draw.discrete_optimum,
    transfer.Transferred: lambda d: gb.transferred(d.calm().optimum()),
    gb.Rate: lambda d: gb.rate(d.calm().gaussian(batch=False), gb.VE, d.calm().affine_reward()),
    gb.training.Consistent: lambda d: gb.training.Consistent.of(d.calm().task()),
    gb.training.PerStep: lambda d: gb.training.PerStep.of(d.calm().task()),
    gb.training.Network: lambda d: gb.training.Network.of(d.calm().task(), 4),
}

#: Protocols of torch modules inside training, whose arguments only training makes.
INNER = {"with_parameters", "affine", "eps"}


@dataclass(frozen=True)
class Entry:
    """One public callable: its name, the function of its keyword arguments, and who owns it (None for functions)."""

    name: str
    function: Callable[..., Any]
    owner: type | None = None
    is_property: bool = False


def public(module: ModuleType) -> dict[str, Any]:
    """The public objects of a module: those of ``__all__``, or all that it defines without an underscore."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


@cache
def entries() -> tuple[Entry, ...]:
    """All of them."""
    found = []
    for module in MODULES:
        prefix = "" if module is gb else module.__name__.rpartition(".")[2] + "."
        for name, value in public(module).items():
            if inspect.isclass(value):
                found += list(_of_class(value))
            elif callable(value):
                found.append(Entry(prefix + name, value))
    for cls in MORE:
        found += list(_of_class(cls))
    return tuple(found)


def _of_class(cls: type) -> Iterator[Entry]:
    if cls in ABSTRACT or issubclass(cls, BaseException):
        return
    if not is_record(cls):
        yield Entry(cls.__name__, cls)
    elif cls not in INSTANCES:
        return
    for name in sorted({name for base in cls.__mro__ if base.__module__.startswith("gapbound") for name in vars(base)}):
        if (name.startswith("_") and name not in SPECIAL) or name in INNER:
            continue
        plain = inspect.getattr_static(cls, name)
        if isinstance(plain, classmethod | staticmethod):
            yield Entry(f"{cls.__name__}.{name}", getattr(cls, name))
        elif callable(plain):
            yield Entry(f"{cls.__name__}.{name}", plain, cls)
        elif hasattr(plain, "__get__") and hasattr(
            plain, "__set_name__" if not isinstance(plain, property) else "fget"
        ):
            yield Entry(f"{cls.__name__}.{name}", _getter(name), cls, is_property=True)


def is_record(cls: type) -> bool:
    """Whether only functions of the library make it, because nothing is checked where it is made.

    Records are met as results, whose text and properties are touched.
    """
    own = [base for base in cls.__mro__ if base.__module__.startswith("gapbound")]
    return (
        not any("__post_init__" in vars(base) for base in own) and hasattr(cls, "__match_args__") and not _has_init(cls)
    )


def _has_init(cls: type) -> bool:
    """Whether ``__init__`` was written by hand: a dataclass's own is made from text, without a file."""
    code = getattr(inspect.unwrap(cls.__init__), "__code__", None)
    return code is not None and not code.co_filename.startswith("<")


def _getter(name: str) -> Callable[[Any], Any]:
    return lambda self: getattr(self, name)


def maker(entry: Entry, parameter: str) -> Maker | None:
    """How the argument is made; None where nothing says so."""
    names = [f"{entry.name}.{parameter}"]
    if entry.owner is None and inspect.isclass(entry.function):
        names.append(f"{entry.function.__name__}.{parameter}")
    if entry.name.endswith(("__call__", ".log_prob")) and parameter == "x":
        return SPECIFIC.get(names[0], Draw.points)
    return next((SPECIFIC[name] for name in names if name in SPECIFIC), MAKERS.get(parameter))


def parameters(entry: Entry) -> dict[str, inspect.Parameter]:
    """Those that are made, without ``self``."""
    if entry.is_property:
        return {}
    found = dict(inspect.signature(entry.function).parameters)
    if entry.owner is not None:
        found.pop(next(iter(found)))
    return {name: p for name, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def instance(cls: type, draw: Draw) -> Any:
    """An object whose methods are called: its constructor was an entry of its own, so a refusal leads to another."""
    entry = Entry(cls.__name__, cls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw.built(INSTANCES.get(cls, lambda d: cls(**arguments(entry, d))))


def arguments(entry: Entry, draw: Draw) -> dict[str, Any]:
    """Keyword arguments; those with a default are left out at times."""
    given: dict[str, Any] = {}
    for name, parameter in parameters(entry).items():
        if parameter.default is not parameter.empty and draw.rng.random() < 0.5:
            continue
        make = maker(entry, name)
        assert make is not None, f"no maker for {entry.name}.{name}"
        given[name] = draw.known[name] = make(draw)
    return given


def call(entry: Entry, rng: random.Random, temper: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function with its arguments; in a wrong call one or two of them are wrong."""
    draw = Draw(rng, temper)
    positional: tuple[Any, ...] = ()
    if entry.owner is not None:
        own = instance(entry.owner, draw)
        positional, draw.known["self"] = (own,), own
        dim = getattr(own, "dim", None)
        draw.dim = dim if isinstance(dim, int) else draw.dim
    given = arguments(entry, draw)
    names = list(parameters(entry))
    if temper == "wrong" and names:
        for name in rng.sample(names, min(len(names), rng.choice([1, 1, 2]))):
            given[name] = wrong(rng)
    return entry.function, positional, given
