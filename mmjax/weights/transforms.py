"""How one published tensor becomes one or several of ours, and back without the loss of a bit.

Linear layers are stored `[out, in]` by torch and `[in, out]` here, convolutions OIHW and HWIO. Every transform only
moves values, so it maps gradients as well as weights.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from mmjax.core.errors import UserError

Shape = tuple[int, ...]


@runtime_checkable
class Transform(Protocol):
    """An invertible rearrangement between one published tensor and one or several of ours."""

    def to_ours(self, published: np.ndarray) -> tuple[np.ndarray, ...]:
        """The published tensor as our tensors."""
        ...

    def to_published(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Our tensors as the published one."""
        ...

    def published_shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape that the published tensor must have for our tensors to have theirs."""
        ...


@dataclasses.dataclass(frozen=True)
class Permute:
    """Our axes are the published ones in the order `axes`; no axes: nothing changes."""

    axes: tuple[int, ...] = ()

    def to_ours(self, published: np.ndarray) -> tuple[np.ndarray, ...]:
        """`published[i, j]` -> `ours[j, i]` for axes (1, 0)."""
        return (published.transpose(self.axes) if self.axes else published,)

    def to_published(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse permutation."""
        (array,) = ours
        return array.transpose(tuple(np.argsort(self.axes))) if self.axes else array

    def published_shape(self, ours: Sequence[Shape]) -> Shape:
        """The inverse permutation of the shape.

        Raises:
          UserError: another number of axes.
        """
        (shape,) = ours
        if self.axes and len(shape) != len(self.axes):
            raise UserError(f"a tensor of shape {list(shape)} cannot be stored with {len(self.axes)} axes")
        return tuple(shape[i] for i in np.argsort(self.axes)) if self.axes else shape


@dataclasses.dataclass(frozen=True)
class Fused:
    """`parts` equal tensors stacked along the first published axis: the rows of a fused q, k, v projection."""

    inner: Transform
    parts: int

    def to_ours(self, published: np.ndarray) -> tuple[np.ndarray, ...]:
        """Equal chunks of the first axis, each through `inner`."""
        return tuple(self.inner.to_ours(chunk)[0] for chunk in np.split(published, self.parts))

    def to_published(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The parts, each through `inner`, stacked along the first axis."""
        return np.concatenate([self.inner.to_published((part,)) for part in ours])

    def published_shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape of the stack."""
        shapes = [self.inner.published_shape((shape,)) for shape in ours]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The rows of each of `heads` heads, stored so that the two that are rotated together are neighbours.

    Published row 2i is our row i of the head, published row 2i + 1 our row i + h, where 2h rows are a head's.
    """

    inner: Transform
    heads: int

    def to_ours(self, published: np.ndarray) -> tuple[np.ndarray, ...]:
        """The first of each pair in front, then the second ones; through `inner`."""
        split = published.reshape(self.heads, -1, 2, *published.shape[1:])  # [N, h, 2, …]
        return self.inner.to_ours(split.swapaxes(1, 2).reshape(published.shape))

    def to_published(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Pairs as neighbours."""
        array = self.inner.to_published(ours)
        split = array.reshape(self.heads, 2, -1, *array.shape[1:])  # [N, 2, h, …]
        return split.swapaxes(1, 2).reshape(array.shape)

    def published_shape(self, ours: Sequence[Shape]) -> Shape:
        """That of `inner`."""
        return self.inner.published_shape(ours)


@dataclasses.dataclass(frozen=True)
class Reshape:
    """The same values in the same order under another shape, such as a scalar stored as `[1]`."""

    published: Shape
    ours: Shape

    def __post_init__(self) -> None:
        if math.prod(self.published) != math.prod(self.ours):
            raise ValueError(f"{self.published} and {self.ours} hold different numbers of values")

    def to_ours(self, published: np.ndarray) -> tuple[np.ndarray, ...]:
        """Reshaped to `ours`."""
        return (published.reshape(self.ours),)

    def to_published(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Reshaped to `published`."""
        return ours[0].reshape(self.published)

    def published_shape(self, ours: Sequence[Shape]) -> Shape:
        """Always `published`."""
        return self.published


SAME = Permute()
LINEAR = Permute((1, 0))  # [out, in] -> [in, out]
CONV = Permute((2, 3, 1, 0))  # OIHW -> HWIO
QKV_KERNEL = Fused(LINEAR, 3)  # [3 D, D]: the rows of q, of k, of v
QKV_BIAS = Fused(SAME, 3)
ONE_VALUE = Reshape((1,), ())
