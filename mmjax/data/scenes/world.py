"""Worlds: the things that scenes are made of, and which of them may meet in which split.

`default` has 64 everyday things, so that a small model can learn to name them in minutes; `all` has every concept of
the emoji pack's train split that is a countable thing (`names.py` has the rule). Concepts of the pack's test split are
in neither: they stay unseen for whoever trains on scenes and tests on `emoji`.

What scenes hold out is compositions: of all unordered pairs of things a fixed tenth meets in test scenes only and
another twentieth in val scenes only. The pairs follow from the things' keys alone: neither seed nor world moves them.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from mmjax.core.errors import UserError
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.language import Name

SPLITS = ("train", "val", "test")
_TEST_SHARE, _VAL_SHARE = 0.10, 0.05
_GROUPS = (1, 2, 3, 4)
MOST_KINDS = _GROUPS[-1]
_GROUP_WEIGHTS = {"train": (0.2, 0.35, 0.3, 0.15), "val": (0.0, 0.4, 0.4, 0.2), "test": (0.0, 0.4, 0.4, 0.2)}
_SMALL_WORDS = {"with", "without", "of", "in", "on", "at", "a", "the", "and", "face", "behind", "over", "showing",
                "pair", "bunch", "slice", "piece", "loaf", "stack", "set", "bowl", "plate"}  # fmt: skip


class Thing(NamedTuple):
    """A concept as scenes use it: its key and row in the emoji pack, its name, whether a mirrored sprite still shows
    it, and all names it goes by (two things that share a word could be mistaken for each other)."""

    key: str
    row: int
    name: Name
    flip: bool
    words: frozenset[str]


def content_words(*phrases: str) -> frozenset[str]:
    """The words of some names that tell things apart, in lower case."""
    words = " ".join(phrases).lower().replace("-", " ").replace(",", " ").split()
    return frozenset(word for word in words if word not in _SMALL_WORDS)


@functools.lru_cache(maxsize=65536)
def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"pair {key}".encode(), digest_size=8).digest(), "little")


def composition(first: str, second: str) -> str:
    """The split ('train', 'val' or 'test') that scenes with the things of these two keys belong to, in either order."""
    # Exclusive-or makes the pair unordered; the mixing (splitmix64) makes every pair a fresh draw.
    bits = (_hash(first) ^ _hash(second)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    share = (bits ^ bits >> 31) / 2.0**64
    if share < _TEST_SHARE:
        return "test"
    return "val" if share < _TEST_SHARE + _VAL_SHARE else "train"


class World:
    """A list of things and the rules by which they meet. A thing is referred to by its place in `things`."""

    def __init__(self, name: str, things: Sequence[Thing]) -> None:
        if len(things) < 8:
            raise UserError(f"the world {name!r} has {len(things)} things; scenes need at least 8 to choose from")
        self.name = name
        self.things = tuple(things)

    def __len__(self) -> int:
        return len(self.things)

    def name_of(self, thing: int) -> Name:
        return self.things[thing].name

    def split_of(self, first: int, second: int) -> str:
        """Which split's scenes these two things may share."""
        return composition(self.things[first].key, self.things[second].key)

    def distinct(self, first: int, second: int) -> bool:
        """Whether nobody would call one by the other's name: they are two things and share no telling word."""
        return first != second and self.things[first].words.isdisjoint(self.things[second].words)

    def stranger(self, dice: Dice, present: Sequence[int]) -> int:
        """A thing that is not among `present` and could not be mistaken for any of them."""
        for _ in range(1000):
            thing = dice.below(len(self.things))
            if all(self.distinct(thing, other) for other in present):
                return thing
        raise UserError(f"the world {self.name!r} has no thing that is clearly different from {len(present)} others")

    def compose(self, dice: Dice, split: str, most: int = MOST_KINDS) -> list[int]:
        """The one to four things of a scene, `most` at most. Train scenes have train pairs only; val and test scenes
        have at least one pair of their own split, besides which they have train pairs."""
        groups = min(most, dice.weighted(_GROUPS, _GROUP_WEIGHTS[split]))
        if split == "train":
            things = [dice.below(len(self.things))]
        else:
            things = self._held_out_pair(dice, split)
        allowed = ("train",) if split == "train" else ("train", split)
        tries = 0
        while len(things) < groups and tries < 200:
            thing = dice.below(len(self.things))
            tries += 1
            if all(self.distinct(thing, other) and self.split_of(thing, other) in allowed for other in things):
                things.append(thing)
        return things

    def _held_out_pair(self, dice: Dice, split: str) -> list[int]:
        for _ in range(20_000):
            first, second = dice.below(len(self.things)), dice.below(len(self.things))
            if self.distinct(first, second) and self.split_of(first, second) == split:
                return [first, second]
        raise UserError(f"the world {self.name!r} has no pair of things that is held out for {split}")
