"""The head of learned rewards: linear layers without activations, read from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

KINDS = ("weight", "bias")


def linear_stack(state: Mapping[str, Tensor], prefix: str = "layers.", width: int | None = None) -> nn.Sequential:
    """The layers ``<prefix><i>.weight`` and ``.bias`` in the order of i, in float32, to one output.

    Dropout lay between them in training; it has no tensors and no effect here.

    Args:
        state: name -> tensor.
        prefix: of the names.
        width: of the input, if it is known.

    Raises:
        ValueError: no such layers, or sizes that do not fit each other, the input, or one output.
    """
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.weight")
    order = sorted(int(match[1]) for name in state if (match := pattern.fullmatch(name)))
    names = [f"{prefix}{i}" for i in order]
    shapes = [tuple(state[f"{name}.weight"].shape) for name in names]
    outputs = [shape[0] for shape in shapes]
    inputs = [width or shapes[0][1], *outputs[:-1]] if shapes else []
    biased = all(f"{name}.bias" in state for name in names)
    if shapes != list(zip(outputs, inputs, strict=True)) or outputs[-1:] != [1] or not biased:
        raise ValueError(
            f"expected linear layers {prefix}<i>.weight and .bias that fit each other, from {width or 'any'} inputs to "
            f"1 output, got shapes {shapes} among {len(state)} tensors"
        )
    layers = nn.Sequential(*(nn.Linear(n, m) for m, n in shapes))
    layers.load_state_dict({f"{k}.{kind}": state[f"{n}.{kind}"] for k, n in enumerate(names) for kind in KINDS})
    return layers.float().eval().requires_grad_(False)
