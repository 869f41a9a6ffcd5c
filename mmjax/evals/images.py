"""Pictures of a source as the model sees them: read when asked for, kept while they fit in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mmjax.core.errors import UserError
from mmjax.evals.base import LeftOut, Tools

_CACHE_BYTES = 1 << 30


class Pictures:
    """A lazy sequence of preprocessed pictures, uint8[S, S, 3] each, or of whatever `preprocess` makes of them.

    Args:
      source: random access examples with `image` (or a list of alternatives, `images`).
      places: (example index, alternative) of each picture.
      preprocess: uint8[Y, X, C] -> uint8[S, S, 3], or as `Tools.prepare`.
      cache_bytes: pictures are kept as long as they take no more memory than this.
    """

    def __init__(
        self,
        source: Any,
        places: Sequence[tuple[int, int]],
        preprocess: Callable[[np.ndarray], np.ndarray],
        cache_bytes: int = _CACHE_BYTES,
    ):
        self._source, self._places, self._preprocess = source, list(places), preprocess
        self._room, self._kept = cache_bytes, dict[int, np.ndarray]()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "Y X C"]:
        if index not in self._kept:
            example, alternative = self._places[index]
            picture = self._preprocess(alternatives(self._source[example])[alternative])
            if picture.nbytes > self._room:
                return picture
            self._room -= picture.nbytes
            self._kept[index] = picture
        return self._kept[index]


def alternatives(example: Mapping[str, Any]) -> list[np.ndarray]:
    """The pictures of an example: its `images`, or its one `image`."""
    return list(example["images"]) if "images" in example else [example["image"]]


def examples(source: Any, limit: int | None = None, tools: Tools | None = None) -> Iterator[tuple[int, Mapping]]:
    """(index, example) of a source, up to `limit` examples spread evenly over it (the same ones every time).

    Args:
      tools: examples that its `unusable` says cannot be used are left out, and entered in its `left_out`.

    Raises:
      UserError: not one example can be used.
    """
    size, used, first = len(source), 0, ""
    unusable = tools.unusable if tools is not None else ()
    chosen = range(size) if limit is None or limit >= size else np.linspace(0, size - 1, limit).round().astype(int)
    for index in chosen:
        try:
            example = source[int(index)]
        except unusable as error:
            first = first or f"example {index}: {error}"
            assert tools is not None  # else nothing is unusable
            tools.left_out.append(LeftOut(getattr(source, "name", "the source"), int(index), str(error)))
            continue
        used += 1
        yield int(index), example
    if not used:
        why = f"no example of it can be used, the first because of {first}" if first else "it has no example"
        raise UserError(f"{getattr(source, 'name', 'the source')}: {why}")
