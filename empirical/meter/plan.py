"""What is measured: which prompts, samples, etas, step counts and guidances, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from empirical.meter.generate import Run
from gapbound._validate import count, finite, non_negative

MODEL, REFERENCE = "model", "reference"


class Cell(NamedTuple):
    """The pairs of a cell share everything but x_T and prompt: one ODE run each, and the SDE runs of every eta."""

    role: str
    guidance: float
    steps: int


@dataclass(frozen=True)
class Plan:
    """A grid of paired runs.

    Args:
        prompts: no two alike; each is a cluster of its own.
        etas: of the SDE runs, above 0; the ODE is always there.
        steps: step counts; two or more allow the limit of many.
        guidance: in use; 1, for none, is measured beside it.
        samples: x_T per prompt.
        draws: SDE runs per eta and x_T.
        seed: of every random number.
        sampler: of the SDE runs.
        size: of the images in pixels; None for the pipeline's own.
        roles: ("model",), or with "reference".
        unguided: whether guidance 1 is measured beside the guidance in use, as all but pilots do.

    Raises:
        ValueError: what cannot be measured, with what can.
        TypeError: something of the wrong kind.
    """

    prompts: tuple[str, ...] = field(repr=False)
    etas: tuple[float, ...]
    steps: tuple[int, ...]
    guidance: float
    samples: int
    draws: int = 1
    seed: int = 0
    sampler: str = "gddim"
    size: int | None = None
    roles: tuple[str, ...] = (MODEL,)
    unguided: bool = True

    def __post_init__(self) -> None:
        """Validate, and bring etas and steps in order."""
        _check_prompts(self.prompts)
        etas = [float(non_negative("etas", eta)) for eta in _several("etas", self.etas)]
        if 0 in etas:
            raise ValueError("etas must be above 0, got 0: that is the ODE, which is measured anyway")
        object.__setattr__(self, "etas", tuple(sorted(_distinct("etas", etas))))
        steps = [count("steps", n) for n in _several("steps", self.steps)]
        object.__setattr__(self, "steps", tuple(sorted(_distinct("steps", steps))))
        guidance = float(finite("guidance", self.guidance))
        if guidance < 1:
            raise ValueError(f"guidance must be 1 (none) or more, got {guidance:g}; diffusers takes less for 1")
        object.__setattr__(self, "guidance", guidance)
        for name, least in (("samples", 1), ("draws", 1), ("seed", 0)):
            count(name, getattr(self, name), least)
        if self.size is not None:
            count("size", self.size)

    @property
    def guidances(self) -> tuple[float, ...]:
        """The guidance in use, and 1."""
        return tuple(sorted({self.guidance} | ({1.0} if self.unguided else set())))

    @property
    def cells(self) -> list[Cell]:
        """Every combination of role, guidance and steps."""
        return [Cell(role, g, n) for role in self.roles for g in self.guidances for n in self.steps]

    def runs(self, cell: Cell) -> list[Run]:
        """The ODE run, then draw by draw the SDE runs of each eta."""
        sde = [Run(eta, cell.steps, cell.guidance, draw) for eta in self.etas for draw in range(self.draws)]
        return [Run(0.0, cell.steps, cell.guidance), *sde]

    @property
    def images(self) -> int:
        """How many images the measurement makes."""
        return len(self.cells) * len(self.prompts) * self.samples * (1 + len(self.etas) * self.draws)

    def batches(self, size: int) -> Iterator[list[tuple[int, int]]]:
        """(number of the prompt, number of the sample), ``size`` at a time, prompt by prompt."""
        batch: list[tuple[int, int]] = []
        for prompt in range(len(self.prompts)):
            for sample in range(self.samples):
                batch.append((prompt, sample))
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _check_prompts(prompts: Any) -> None:
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of strings, got the string {prompts!r}")
    if not prompts:
        raise ValueError("prompts is empty; give at least one, better ten or more: each is a unit of the interval")
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts must be a list of strings, got {prompt!r}")
        if not prompt.strip():
            raise ValueError(f"prompt {number} is empty; remove it (an unconditional model still wants a text)")
        if prompt in seen:
            raise ValueError(
                f"prompt {number} repeats prompt {seen[prompt]}, {prompt!r}, which would count twice in the interval; "
                "remove it, and raise samples_per_prompt instead"
            )
        seen[prompt] = number


def _several(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list, got {values!r}")
    if not values:
        raise ValueError(f"{name} is empty; give at least one")
    return values


def _distinct(name: str, values: list[Any]) -> list[Any]:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{name} holds {repeated[0]:g} twice; each is measured once")
    return values
