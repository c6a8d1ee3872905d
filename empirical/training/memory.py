"""How much memory a forward and a backward pass of a network need, counted on the meta device: no weights, no work.

Every tensor that an operation makes is counted from its making to its end, as Python's references and autograd's saved
tensors decide it. What is not counted is what no tensor shows: workspaces of kernels, fragmentation of an allocator,
the context of a GPU (``MARGIN`` is left for them). Attention counts as fused, which never holds the matrix of weights.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from empirical.training import tune

MARGIN = 0.1  # of a card's memory, for what is not counted
ADAMW = 2  # moments of each trained number, float32 as the number and its gradient


class Peak(TorchDispatchMode):
    """Bytes of the tensors made inside the block that are alive, and the most there were at once.

    Attributes:
        alive: bytes now.
        most: bytes at the worst moment.
    """

    def __init__(self) -> None:
        """Nothing was made yet."""
        super().__init__()
        self.alive = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        before = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (key := _storage(tensor)) not in before and key not in self._known:
                size = tensor.untyped_storage().nbytes()
                self._known.add(key)
                self.alive += size
                self.most = max(self.most, self.alive)
                weakref.finalize(tensor.untyped_storage(), self._ended, key, size)
        return result

    def _ended(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Attention(torch.autograd.Function):
    """Fused attention as far as memory goes: it keeps its inputs, its output and one number a row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _fused(query: Tensor, key: Tensor, value: Tensor, *options: Any, **named: Any) -> Tensor:
    """In the place of torch's attention, which on the meta device would form the matrix of weights."""
    return _Attention.apply(query, key, value)


@dataclass(frozen=True)
class Budget:
    """Bytes on one device, by what holds them.

    Attributes:
        weights: of all networks, with the frozen reference where all weights are trained.
        training: AdamW's moments and the moving average.
        latents: this process's share of an epoch.
        update: the most that the forward and backward pass of a micro-batch hold, gradients among it.
        decoding: the most that decoding a micro-batch holds.
    """

    weights: int
    training: int
    latents: int
    update: int
    decoding: int

    @property
    def total(self) -> int:
        """What must fit; rollout and decoding happen before the update and free what they held."""
        return self.weights + self.training + self.latents + max(self.update, self.decoding)


@dataclass(frozen=True)
class Sizes:
    """What decides a budget besides the networks.

    Args:
        dtype: of frozen weights.
        rank: of the LoRA; None trains all weights.
        checkpointing: whether blocks of the denoiser are computed again in the backward pass.
        ema: whether there is a moving average of what is trained.
        samples: of an epoch in this process.
        steps: of the sampler.
    """

    dtype: torch.dtype
    rank: int | None
    checkpointing: bool
    ema: bool
    samples: int
    steps: int


def budget(
    network: nn.Module, others: Sequence[nn.Module], inputs: Mapping[str, Any], sample: str, coder: nn.Module,
    decoded: Sequence[int], sizes: Sizes,
) -> Budget:  # fmt: skip
    """The memory of a training step, without doing it.

    Args:
        network: the denoiser; its configuration alone is read.
        others: every other network, for its weights.
        inputs: keywords of the denoiser for a micro-batch, doubled where guidance doubles it.
        sample: which of them are the latents.
        coder: the autoencoder; its configuration alone is read.
        decoded: shape of the micro-batch as it is decoded.
        sizes: see there.
    """
    made = replica(network, sizes.dtype, sizes.rank, sizes.checkpointing)
    given = {name: _on_meta(value, sizes.dtype) for name, value in inputs.items()}
    trained = 4 * sum(p.numel() for p in made.parameters() if p.requires_grad)
    weights = _bytes(made) * (2 if sizes.rank is None else 1) + sum(map(_bytes, others))
    each = 4 * given[sample][0].numel()
    return Budget(
        weights,
        trained * (ADAMW + sizes.ema),
        (sizes.steps + 1) * sizes.samples * each,
        _peak(lambda: made(**given)[0].float().sum().backward()),
        _decoding(coder, decoded, sizes.dtype),
    )


def replica(network: nn.Module, dtype: torch.dtype, rank: int | None, checkpointing: bool) -> nn.Module:
    """The network without its weights, on the meta device, prepared for training as ``tune`` prepares it."""
    made = _empty(network, dtype)
    made.requires_grad_(rank is None)
    if rank is not None:
        with torch.device("meta"):
            tune.adapt(made, rank)
    if checkpointing:
        made.enable_gradient_checkpointing()
    return made.eval()


def _empty(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return type(network)(**{name: network.config[name] for name in _settings(network)})
    finally:
        torch.set_default_dtype(before)


def _settings(network: nn.Module) -> list[str]:
    """What its class takes; configurations may hold more."""
    return [name for name in inspect.signature(type(network)).parameters if name in network.config]


def _peak(work: Callable[[], Any]) -> int:
    with patch.object(functional, "scaled_dot_product_attention", _fused), Peak() as peak:
        work()
    return peak.most


@torch.no_grad()
def _decoding(coder: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> int:
    made, z = _empty(coder, dtype).eval(), torch.empty(*shape, dtype=dtype, device="meta")
    return _peak(lambda: made.decode(z, return_dict=False))


def _bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _on_meta(value: Any, dtype: torch.dtype) -> Any:
    """Tensors, in any nesting, without their content; floating-point ones as the network computes."""

    def moved(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return torch.empty_like(one, device="meta", dtype=dtype if one.is_floating_point() else one.dtype)

    return tree_map(moved, value)
