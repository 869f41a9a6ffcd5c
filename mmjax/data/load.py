"""Examples of a source by their places; where one cannot be used, another one of the same source."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.core.errors import BadExample, UserError
from mmjax.data import ledger

Check = Callable[[Mapping[str, Any]], None]

ATTEMPTS = 1000  # examples tried in place of a bad one


@runtime_checkable
class Examples(Protocol):
    """Random access to examples: dicts with `image` uint8[Y, X, C] or a list `images` of such, and texts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Load:
    """Place in a source -> (place in all sources laid end to end, example, what was dropped before it)."""

    source: Examples
    name: str
    first: int
    seed: int  # of what stands in for bad examples
    check: Check | None  # raises BadExample for an example without a usable text
    images: bool = True  # False: for the texts alone, images are not decoded where the source can do without

    def __call__(self, index: int) -> tuple[int, Mapping[str, Any], list[ledger.Dropped]]:
        asked = place = int(index)
        bad: list[ledger.Dropped] = []
        read = self.source.__getitem__
        if not self.images:
            read = getattr(self.source, "without_image", read)
        while True:
            try:
                example = read(place)
                if self.check is not None:
                    self.check(example)
                return self.first + place, example, bad
            except BadExample as error:
                bad.append(ledger.dropped(self.source, self.name, place, error))
            if len(bad) > ATTEMPTS:
                reasons = ledger.words(dict(Counter(item.reason for item in bad).most_common()))
                raise UserError(
                    f"data source {self.name!r}: {len(bad):,} examples drawn one after the other cannot be used: "
                    f"{reasons}. The first: {ledger.describe(bad[0])}"
                )
            # SeedSequence's words are promised to stay the same in later versions of numpy; a Generator's are not.
            words = np.random.SeedSequence([self.seed, asked, len(bad)]).generate_state(1, np.uint64)
            place = int(words[0] % np.uint64(len(self.source)))


def usable(source: Examples) -> Iterator[Mapping[str, Any]]:
    """The examples of a source in order, less those that cannot be used: the pipeline tells of them."""
    for index in range(len(source)):
        try:
            example = source[index]
        except BadExample:
            continue
        yield example
