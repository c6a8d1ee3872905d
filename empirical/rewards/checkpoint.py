"""Weights and pretrained parts by local path or model-hub id, with a message where there are none.

Only tensors are read: safetensors, or torch files with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

Part = TypeVar("Part")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
NOT_FOUND = (OSError, ValueError, HfHubHTTPError)


def pretrained(load: Callable[[str], Part], source: str, what: str) -> Part:
    """``load(source)``, where ``source`` is a folder or a hub id.

    Raises:
        FileNotFoundError: it looks like a path and there is nothing.
        OSError: it cannot be loaded, from here or from the hub.
    """
    here = local(source)
    if here is None and looks_local(source):
        raise FileNotFoundError(f"no {what} at {source}: nothing is there")
    try:
        return load(source if here is None else str(here))
    except NOT_FOUND as error:
        raise OSError(_unavailable(what, source, here, error)) from error


def load_tokenizer(source: str, what: str) -> Any:
    """A tokenizer by folder or hub id.

    Without files transformers makes one up, of three tokens, where it knows the model's kind: that is refused here.

    Raises:
        OSError: there is none.
    """
    if local(source) is not None and not has_tokenizer(source):
        raise OSError(
            f"no {what} at {source}: it holds none of {', '.join(TOKENIZER_FILES)}; name a second source that does, as "
            "in clip_score@MODEL,PROCESSOR"
        )
    found = pretrained(AutoTokenizer.from_pretrained, source, what)
    if not has_tokenizer(source):
        raise OSError(f"no {what} on the hub at {source!r}; name a second source, as in clip_score@MODEL,PROCESSOR")
    return found


def has_tokenizer(source: str) -> bool:
    """Whether a folder, or a hub id that can be reached, holds the files of one."""
    return any(_holds(source, file) for file in TOKENIZER_FILES)


def weights(source: str, what: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU: a path, or a file on the hub as ``owner/name/file``.

    A dictionary under "state_dict", as open_clip writes it, is unwrapped.

    Raises:
        FileNotFoundError: it looks like a path and there is nothing.
        OSError: the hub does not give it.
        ValueError: the file does not hold tensors by name.
    """
    here = local(source)
    if here is None and looks_local(source):
        raise FileNotFoundError(f"no {what} at {source}: nothing is there")
    if here is None:
        owner, _, rest = source.partition("/")
        name, _, file = rest.partition("/")
        if not file:
            raise ValueError(f"{what} are one file: give its path, or owner/name/file on the hub, got {source!r}")
        try:
            here = Path(hf_hub_download(f"{owner}/{name}", file))
        except NOT_FOUND as error:
            raise OSError(_unavailable(what, source, None, error)) from error
    return _tensors(here, what)


def local(source: str) -> Path | None:
    """The path, if something is there."""
    path = Path(source).expanduser()
    return path if path.exists() else None


def looks_local(source: str) -> bool:
    """Whether ``source`` can only be meant as a path."""
    return source.startswith(("/", ".", "~")) or Path(source).suffix == ".safetensors"


def _holds(source: str, file: str) -> bool:
    here = local(source)
    if here is not None:
        return (here / file).exists()
    try:
        return cached_file(source, file) is not None
    except NOT_FOUND:
        return False


def _tensors(path: Path, what: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, IsADirectoryError) as error:
        raise ValueError(f"{path} cannot be read as {what}, is it damaged? {_first_line(error)}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} does not hold {what}: expected tensors by name")
    return found


def _unavailable(what: str, source: str, here: Path | None, error: Exception) -> str:
    if here is not None:
        return f"cannot load a {what} from {here}: {_first_line(error)}"
    return (
        f"cannot load a {what} from {source!r}: no such path here, and the model hub does not give it "
        f"({_first_line(error)}); download it where there is a network and pass its path"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
