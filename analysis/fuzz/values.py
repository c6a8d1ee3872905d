"""Arguments for public functions, made by the parameter's name: ordinary, extreme or wrong."""

from __future__ import annotations

import decimal
import fractions
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import gapbound as gb
from gapbound.expectation import CallableReward

TEMPERS = {"ordinary": 0.4, "extreme": 0.3, "wrong": 0.3}
EXTREME = (
    0.0,
    5e-324,
    1e-300,
    1e-160,
    1e-30,
    1e-9,
    1 - 2e-16,
    1 + 3e-16,
    30.0,
    1e4,
    1e9,
    1e30,
    1e100,
    1e155,
    1e160,
    1e300,
    1.7e308,
)


class Hostile:
    """An object that is no number, whose text is long."""

    def __repr__(self) -> str:
        """Longer than any message should be."""
        return "hostile" * 1000


def wrong(rng: random.Random) -> Any:
    """Something that hardly any parameter takes."""
    return rng.choice(
        [
            lambda: None,
            lambda: "1.0",
            lambda: "no",
            lambda: "",
            lambda: True,
            lambda: False,
            lambda: 1j,
            lambda: [],
            lambda: {},
            lambda: (),
            lambda: float("nan"),
            lambda: float("inf"),
            lambda: -float("inf"),
            lambda: -1,
            lambda: -1.5,
            lambda: 0,
            lambda: 10**400,
            lambda: 2.5,
            lambda: [1.0, True],
            lambda: [[1.0], [2.0, 3.0]],
            lambda: np.ma.array([1.0, 2.0], mask=[True, False]),
            lambda: np.array(["a"]),
            lambda: np.array([None]),
            lambda: np.array([1.0, np.nan]),
            lambda: np.empty((0,)),
            lambda: np.empty((2, 0)),
            lambda: np.matrix([[1.0, 2.0]]),
            lambda: np.ones((2, 3, 4)),
            lambda: np.float16(0.1),
            lambda: np.array(True),
            lambda: np.array([1 + 1j]),
            lambda: torch.ones(3, 1, dtype=torch.bfloat16),
            lambda: torch.ones(2, requires_grad=True),
            lambda: torch.empty(0),
            lambda: torch.tensor([float("nan")]),
            lambda: torch.ones(2, dtype=torch.complex64),
            lambda: torch.tensor([[3], [200]], dtype=torch.uint8),
            lambda: decimal.Decimal(1),
            lambda: 10**9,
            lambda: fractions.Fraction(1, 2),
            Hostile,
            lambda: Hostile,
            lambda: gb.VE,
            lambda: gb.VE(2.0),
            lambda: len,
            lambda: gb.Gaussian(0.3, 1.2),
            lambda: gb.Linear(1.0),
            lambda: gb.Windows([(0.1, 1.0, 0.5)]),
            lambda: iter([1.0]),
            lambda: np.datetime64("2020-01-01"),
            lambda: b"bytes",
            lambda: np.random.default_rng(0),
        ]
    )()


class Draw:
    """Random arguments for one call, all for one dimension and one batch."""

    def __init__(self, rng: random.Random, temper: str) -> None:
        """Fix dimension and batch."""
        self.rng, self.extreme = rng, temper == "extreme"
        self.dim = rng.choice([1, 1, 1, 2, 3])
        self.batch = rng.choice([(), (), (), (), (3,)])
        self.known: dict[str, Any] = {}

    def calm(self) -> Draw:
        """The same with ordinary values."""
        other = Draw(self.rng, "ordinary")
        other.dim, other.batch = self.dim, self.batch
        return other

    def built(self, make: Callable[[Draw], Any]) -> Any:
        """What ``make`` builds of these values; of ordinary ones where it refuses."""
        try:
            return make(self)
        except (TypeError, ValueError):
            return make(self.calm())

    def positive(self, low: float = -1.5, high: float = 1.0) -> float:
        """A positive number, but for an extreme 0."""
        if self.extreme and self.rng.random() < 0.4:
            return self.rng.choice(EXTREME)
        return 10 ** self.rng.uniform(low, high)

    def number(self) -> float:
        """A number of either sign."""
        return self.rng.choice([-1.0, 1.0]) * self.positive() if self.rng.random() < 0.9 else 0.0

    def many(self, make: Callable[[], float]) -> Any:
        """A number, or an array of the batch's shape."""
        return np.array([make() for _ in range(self.batch[0])]) if self.batch else make()

    def vector(self) -> Any:
        """A number or an array (d,)."""
        return self.number() if self.rng.random() < 0.5 else np.array([self.number() for _ in range(self.dim)])

    def whole(self, *numbers: int) -> int:
        """One of these, or in an extreme call any size."""
        return (
            self.rng.choice([1, 2, 10**5, 10**8, 10**18])
            if self.extreme and self.rng.random() < 0.2
            else self.rng.choice(numbers)
        )

    def matrix(self) -> Any:
        """A symmetric positive definite matrix."""
        root = np.array([[self.calm().number() for _ in range(self.dim)] for _ in range(self.dim)])
        return root @ root.T + 0.1 * self.positive() * np.eye(self.dim)

    def gaussian(self, batch: bool = True) -> gb.Gaussian:
        """Any dimension and kind of covariance."""
        return self.built(lambda draw: draw._gaussian(self.batch if batch else ()))

    def _gaussian(self, batch: tuple[int, ...]) -> gb.Gaussian:
        shape = (*batch, self.dim)
        mean = np.array([self.number() for _ in range(int(np.prod(shape)))]).reshape(shape)
        if self.dim > 1 and self.rng.random() < 0.4:
            matrix = self.matrix()
            return gb.Gaussian(mean, np.broadcast_to(matrix, (*batch, *matrix.shape)))
        return gb.Gaussian(mean, np.array([self.positive() for _ in range(self.dim)]))

    def mixture(self) -> gb.GaussianMixture:
        """Two or three components."""
        return self.built(Draw._mixture)

    def _mixture(self) -> gb.GaussianMixture:
        K = self.rng.choice([1, 2, 2, 3])
        weights = np.array([self.calm().positive() for _ in range(K)])
        means = np.array([[self.number() for _ in range(self.dim)] for _ in range(K)])
        covs = (
            self.positive()
            if self.rng.random() < 0.5
            else np.array([[self.positive() for _ in range(self.dim)] for _ in range(K)])
        )
        return gb.GaussianMixture(weights / weights.sum(), means, covs)

    def law(self) -> Any:
        """A Gaussian or a mixture."""
        return self.gaussian() if self.rng.random() < 0.6 else self.mixture()

    def process(self, many: bool = True) -> gb.Process:
        """Any kind; T may be an array."""
        return self.built(lambda draw: draw._process(self.batch if many and self.rng.random() < 0.15 else ()))

    def _process(self, batch: tuple[int, ...]) -> gb.Process:
        T: Any = np.array([self.positive(-0.5, 0.7) for _ in range(batch[0])]) if batch else self.positive(-0.5, 0.7)
        return self.rng.choice(
            [
                lambda: gb.VE(T),
                lambda: gb.VP(T),
                lambda: gb.VP(T, "constant"),
                lambda: gb.VP(1.0, "linear"),
                lambda: gb.VP(1.0, "cosine"),
                lambda: gb.FlowMatching(T / (1 + T)),
                lambda: gb.FlowMatching(1.0),
                lambda: gb.VP.stable_diffusion(20),
            ]
        )()

    def reward(self) -> Any:
        """One of gapbound's."""
        return self.built(Draw._reward)

    def _reward(self) -> Any:
        return self.rng.choice(
            [
                self.quadratic,
                self.quadratic,
                self.linear,
                lambda: gb.HalfSpace(self.vector(), self.number()),
                lambda: gb.AbsoluteDeviation(self.vector(), self.number()),
                lambda: gb.Bump(self.vector(), self.positive()),
                lambda: gb.Cosine(self.vector(), self.number()),
            ]
        )()

    def quadratic(self) -> Any:
        """Any curvature."""
        A = self.number() if self.rng.random() < 0.6 else self.matrix()
        return gb.Quadratic(A, self.vector(), self.vector(), self.number())

    def linear(self) -> Any:
        """Any slope."""
        return gb.Linear(self.vector(), self.number())

    def affine_reward(self) -> Any:
        """Linear or quadratic."""
        return self.built(lambda draw: draw.quadratic() if self.rng.random() < 0.6 else draw.linear())

    def any_reward(self) -> Any:
        """A reward or a function, at times a bad one."""
        if self.rng.random() < 0.85:
            return self.reward()
        return self.rng.choice(
            [
                lambda x: x[..., 0],
                lambda x: abs(x).sum(-1),
                lambda x: (x**2).sum(-1) / 3,
                lambda x: x,
                lambda x: x.sum(-1) * float("nan"),
                lambda x: "bad",
                lambda x: 1.0,
                lambda x: (x[..., 0] > 0.3) * 1.0,
                lambda x: x.sum(-1) + 1j,
                lambda x: None,
                CallableReward(lambda x: x.sum(-1), n=1000),
            ]
        )

    def eta(self, many: bool = True) -> Any:
        """A number, an array or windows."""
        pick = self.rng.random()
        if pick < 0.15:
            return self.windows()
        if many and pick < 0.3 and self.batch:
            return np.array([self.positive(-1.5, 0.4) for _ in range(self.batch[0])])
        return self.rng.choice([0.0, 0.5, 1.0, 1.0, 1.5, self.positive(-2, 0.6)])

    def windows(self) -> gb.Windows:
        """Up to two windows."""
        edges = sorted({self.positive(-2, 1) for _ in range(4)})
        return self.built(
            lambda draw: gb.Windows(
                [(a, b, draw.positive(-1, 0.4)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
            )
        )

    def guided(self) -> Any:
        """Classifier-free guidance."""
        return self.built(
            lambda draw: gb.guided(draw.gaussian(), draw.gaussian(), draw.many(lambda: 2 * draw.number()))
        )

    def optimum(self) -> Any:
        """An RL optimum."""
        return self.built(
            lambda draw: gb.rl_optimum(
                draw.gaussian(batch=False), draw.quadratic_up(), draw.positive(), gb.VE(5.0), draw.eta(many=False)
            )
        )

    def quadratic_up(self) -> Any:
        """A quadratic reward that has a maximum."""
        return gb.Quadratic(self.positive(), self.vector(), self.vector())

    def discrete_optimum(self) -> Any:
        """An optimum of a few steps."""
        return gb.rl_optimum_discrete(
            self.calm().gaussian(batch=False), self.calm().quadratic_up(), 1.0, gb.VE(5.0), steps=4
        )

    def model(self) -> Any:
        """Any affine score."""
        return self.rng.choice([self.gaussian, self.gaussian, self.guided, self.optimum])()

    def target(self) -> Any:
        """Any model or law."""
        return self.rng.choice([self.gaussian, self.gaussian, self.mixture, self.guided, self.optimum])()

    def points(self) -> Any:
        """An array or a tensor of points, of any real dtype."""
        shape = self.rng.choice([(self.dim,), (4, self.dim), (2, *self.batch, self.dim)])
        values = np.array([self.number() for _ in range(int(np.prod(shape)))]).reshape(shape)
        kind = self.rng.choice(
            ["array", "array", "float32", "float64", "float16", "bfloat16", "uint8", "int64", "narrow"]
        )
        if kind == "array":
            return values
        if kind == "narrow":
            return np.clip(values, -100, 100).astype(self.rng.choice([np.float16, np.int8, np.int64, np.float32]))
        return torch.tensor(np.clip(values, -100, 100)).to(getattr(torch, kind))

    def tensor(self, *shape: int) -> torch.Tensor:
        """A tensor of ordinary or large numbers."""
        values = np.array([self.number() for _ in range(int(np.prod(shape)))]).reshape(shape)
        return torch.tensor(
            values, dtype=self.rng.choice([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16])
        )

    def task(self) -> Any:
        """A training task on the line."""
        T = gb.training.Task
        mixture = gb.GaussianMixture([0.3, 0.7], [-1.0, 1.0], 0.3)
        reference = self.rng.choice([gb.Gaussian(0.3, 1.2), gb.Gaussian([0.3], self.positive()), mixture])
        reward = self.rng.choice([gb.Linear(self.number()), gb.Quadratic(self.positive(), self.number())])
        return self.built(
            lambda draw: T(
                reference,
                gb.VE(self.positive(0, 1)),
                reward,
                self.positive(-1, 0.3),
                self.positive(),
                self.rng.choice([2, 5]),
            )
        )

    def policy(self) -> Any:
        """A policy for the task drawn before."""
        task = self.known["task"] if isinstance(self.known.get("task"), gb.training.Task) else self.task()
        try:
            return self.rng.choice([gb.training.Consistent, gb.training.PerStep]).of(task)
        except (TypeError, ValueError):
            return self.rng.choice(["consistent", "per-step"])

    def falling(self, process: Any) -> Any:
        """Noise levels for a process."""
        try:
            return gb.grid(process, self.rng.choice([1, 3, 8]))
        except (TypeError, ValueError):
            return np.array([3.0, 1.0, 0.0])

    def below(self, name: str) -> Any:
        """A positive number below another argument, mostly."""
        other = self.known.get(name)
        share = self.positive(-1, -0.01)
        return other * share if isinstance(other, float | np.ndarray) else share

    def score_model(self) -> Any:
        """A law or a callable score."""
        return self.rng.choice(
            [
                lambda z, sigma: -z / (1 + sigma**2),
                self.calm().gaussian(batch=False).score,
                lambda z, sigma: z * float("nan"),
            ]
        )
