"""Pieces of words by merging their most frequent pairs, one after the other (Sennrich et al. 2016)."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

from mmjax.core.errors import UserError


def merge_pairs(counts: Mapping[str, int], size: int, mark: str) -> list[str]:
    """At most `size` pieces: every character, inside words with `mark` before it, then merged pairs by frequency.

    Ties go to the pair that sorts first, so that the same words give the same pieces.

    Args:
      counts: word -> how often it occurs.
      size: of the list; it ends before where every word is one piece.
      mark: what begins a piece that continues a word.

    Raises:
      UserError: more characters than `size`.

    Example:
      >>> merge_pairs({"ab": 3, "abc": 1}, 9, "##")
      ['##b', '##c', 'a', 'ab', 'abc']
    """
    words = {word: [word[0], *(mark + letter for letter in word[1:])] for word in sorted(counts)}
    pieces = sorted({piece for parts in words.values() for piece in parts})
    if len(pieces) > size:
        raise UserError(f"a vocabulary with room for {size} pieces; the texts have {len(pieces)} characters")
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, parts in words.items():
        for pair in itertools.pairwise(parts):
            pairs[pair] += counts[word]
            where[pair].add(word)
    known = set(pieces)
    while len(pieces) < size and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = best[0] + best[1].removeprefix(mark)
        if merged not in known:
            known.add(merged)
            pieces.append(merged)
        for word in where.pop(best):
            parts = words[word]
            for pair in itertools.pairwise(parts):
                pairs[pair] -= counts[word]
                if pairs[pair] <= 0:
                    del pairs[pair]
                where[pair].discard(word)
            words[word] = parts = _merged(parts, best, merged)
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
                where[pair].add(word)
        pairs.pop(best, None)
    return pieces


def _merged(parts: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] = merged
        else:
            out.append(part)
    return out
