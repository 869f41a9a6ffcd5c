"""Random choices that depend on nothing but their key: not on order, process or what else was drawn."""

import functools
import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 64


@functools.lru_cache(maxsize=4096)
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Dice:
    """Choices from a stream of uniform numbers in [0, 1).

    numpy's own `choice` and `integers` cost microseconds each and may change between versions; the raw uniform
    stream of a counter-based generator is fixed, and drawn in blocks it costs nothing.
    """

    __slots__ = ("_at", "_draw", "_values")

    def __init__(self, values: Sequence[float], draw: np.random.Generator | None = None) -> None:
        self._values = values
        self._draw = draw
        self._at = 0

    @classmethod
    def keyed(cls, stream: str, index: int) -> "Dice":
        """The dice of element `index` of the named stream."""
        draw = np.random.Generator(np.random.Philox(key=np.array([_word(stream), index], np.uint64)))
        return cls(draw.random(_BLOCK).tolist(), draw)

    def fork(self, count: int) -> list[float]:
        """The next `count` numbers: `Dice(numbers)` replays them, cyclically, as often as one likes."""
        return [self.random() for _ in range(count)]

    def random(self) -> float:
        """Uniform in [0, 1)."""
        if self._at == len(self._values):
            self._at = 0
            if self._draw is not None:
                self._values = self._draw.random(_BLOCK).tolist()
        value = self._values[self._at]
        self._at += 1
        return value

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.random() * count)

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of `items`, with the given weights (they need not sum to 1)."""
        left = self.random() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order (sorting by random keys is stable across versions, unlike `shuffle`)."""
        keyed = sorted((self.random(), place) for place in range(len(items)))
        return [items[place] for _, place in keyed]
