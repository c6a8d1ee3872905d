"""A CLIP tokenizer whose vocabulary is the grammar's: byte-pair encoding, learned here, every word one token.

The trainer of ``tokenizers`` breaks ties between equally frequent pairs at random, so that two calls give two
vocabularies and weights fit none but the one they were trained with. Here ties go to the lowest ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer

from empirical.shapes.caption import SINGULARS
from empirical.shapes.scene import BACKGROUNDS, COLORS, PLACES, RADII, RELATIONS, SHAPES

LENGTH = 16  # tokens, with begin and end; the longest caption has 12 words
PHRASES = ("a", "two", *RADII, *COLORS, *SHAPES, *SINGULARS, *RELATIONS, "at the", *PLACES, "on", *BACKGROUNDS)
WORDS = tuple(dict.fromkeys(word for phrase in PHRASES for word in (*phrase.split(), "background")))
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LAST = "</w>"  # marks the end of a word


def new() -> CLIPTokenizer:
    """The tokenizer: ``CLIPTokenizer`` with vocabulary and merges of its own, padded with the end token."""
    vocabulary, merges = learn(WORDS)
    for special in (BEGIN, END):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=LENGTH,
    )


def learn(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair encoding until every word is one token: the most frequent pair first, ties to the lowest ids.

    Returns:
        Token -> id: letters in order, final letters by falling frequency, then merges; and the merges.
    """
    finals = Counter(word[-1] for word in words)
    tokens = [
        *sorted({letter for word in words for letter in word}),
        *(letter + LAST for letter in sorted(finals, key=lambda letter: (finals[letter], letter), reverse=True)),
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    parts, merges = [[*word[:-1], word[-1] + LAST] for word in words], []
    while counts := Counter(pair for part in parts for pair in pairwise(part)):
        first, second = min(counts, key=lambda pair: (-counts[pair], vocabulary[pair[0]], vocabulary[pair[1]]))
        merges.append((first, second))
        vocabulary.setdefault(first + second, len(vocabulary))
        parts = [_merged(part, first, second) for part in parts]
    return vocabulary, merges


def _merged(part: list[str], first: str, second: str) -> list[str]:
    out: list[str] = []
    for token in part:
        if out and (out[-1], token) == (first, second):
            out[-1] = first + second
        else:
            out.append(token)
    return out
