"""Rewards as text: ``name``, ``name:weight``, ``name@source``, ``name@source,source:weight``, joined by ``+``.

A source is a path or an id on a model hub. The weight is what follows the last colon, if it is a number, so that
sources may hold colons; a ``+`` separates terms only where a known name follows, so that sources may hold plus signs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gapbound._validate import choice, finite


@dataclass(frozen=True)
class Term:
    """One reward of a sum.

    Attributes:
        name: which reward.
        sources: where its weights, and what else it reads, come from; empty for its defaults.
        weight: its factor in the sum.
    """

    name: str
    sources: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def label(self) -> str:
        """The term without its weight."""
        return f"{self.name}@{','.join(self.sources)}" if self.sources else self.name


def parse(spec: str | Mapping[str, float], known: Collection[str]) -> tuple[Term, ...]:
    """The terms of a sum, from text or from a mapping ``name[@sources] -> weight``.

    Args:
        spec: "jpeg_compressibility", "alignment:2+clip_score:1", "pick_score@/path", {"alignment": 2.0}.
        known: the names there are.

    Raises:
        TypeError: neither text nor a mapping.
        ValueError: an empty term or source, an unknown name, the same reward twice, a weight that is 0, NaN or
            infinite.
    """
    if isinstance(spec, Mapping):
        terms = [_term(label, weight, known) for label, weight in spec.items()]
    elif isinstance(spec, str):
        name = "|".join(re.escape(name) for name in known)
        parts = re.split(rf"\+(?=\s*(?:{name})\s*(?:[@:+]|$))", spec)
        terms = [_term(*_split(part), known) for part in parts]
    else:
        raise TypeError(f"a reward must be text such as 'alignment:2+clip_score' or a mapping, got {spec!r}")
    labels = [term.label for term in terms]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{label} occurs twice in {spec!r}; add its weights instead")
    if not terms:
        raise ValueError(f"a reward is missing in {spec!r}; known: {', '.join(known)}")
    return tuple(terms)


def _split(part: str) -> tuple[str, float]:
    """Label and weight of a term; without a number after its last colon the weight is 1."""
    label, colon, weight = part.rpartition(":")
    try:
        return (label, float(weight)) if colon else (part, 1.0)
    except ValueError:
        return part, 1.0


def _term(label: str, weight: float, known: Collection[str]) -> Term:
    name, at, rest = (part.strip() for part in label.partition("@"))
    if ":" in name:
        raise ValueError(f"a weight must be a number, got {label!r}; write {name.split(':')[0]}:1.5")
    choice("reward", name, known)
    sources = tuple(source.strip() for source in rest.split(",")) if at else ()
    if not all(sources):
        raise ValueError(f"a source is missing in {label!r}; write {name}@/path or {name}@owner/model")
    if finite(f"the weight of {name}", weight) == 0:
        raise ValueError(f"the weight of {name} is 0; leave it out")
    return Term(name, sources, float(weight))
