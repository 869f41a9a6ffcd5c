"""A queue of features from past steps, as candidates beside those of the batch (MoCo: He et al. 2020; ALBEF, BLIP).

It is state: a tree of arrays that a step takes and returns. The whole global batch is entered, whatever the mesh, and
every device sees all of it; over `tensor` its rows are split, if they divide.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain

EMPTY = -1
"""Id of a row that nothing has entered yet: it is nobody's positive."""


@struct.dataclass
class Queue:
    """Q rows; the oldest stands at the pointer.

    Attributes:
      features: name -> float32[Q, D], e.g. "img" and "txt", whose rows belong together.
      ids: int32[Q], what a row shows (an image's number); rows of equal id are each other's positives.
      pointer: int32[], where the next batch goes.
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    features: Any
    ids: Any
    pointer: Any


def start(key: jax.Array, size: int, widths: dict[str, int]) -> Queue:
    """A queue of random rows of unit length without ids, as ALBEF begins.

    Args:
      key: of the random rows.
      size: Q.
      widths: name -> D.

    Raises:
      UserError: size < 1.
    """
    if size < 1:
        raise UserError(f"queue of {size} rows: it needs at least one")
    features = {}
    for place, (name, width) in enumerate(sorted(widths.items())):
        rows = jax.random.normal(jax.random.fold_in(key, place), (size, width), jnp.float32)
        features[name] = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    return Queue(features, jnp.full(size, EMPTY, jnp.int32), jnp.zeros((), jnp.int32))


def enqueue(queue: Queue, features: dict[str, jax.Array], ids: jax.Array | None = None) -> Queue:
    """The queue with a batch in the place of its oldest rows; no gradient flows into it.

    Args:
      features: name -> float[B, D], the global batch; the queue's names.
      ids: int[B], at least 0; None where pairs have no ids.

    Raises:
      UserError: B does not divide Q (a batch would not fit before the end, and ALBEF's code refuses it, too), or names
        or widths that are not the queue's.
    """
    size, batch = queue.ids.shape[0], next(iter(features.values())).shape[0]
    shapes = {name: rows.shape[1:] for name, rows in queue.features.items()}
    if {name: rows.shape[1:] for name, rows in features.items()} != shapes:
        raise UserError(f"queue of {shapes}: the batch has { ({name: rows.shape for name, rows in features.items()}) }")
    if size % batch:
        raise UserError(
            f"a batch of {batch} does not divide a queue of {size} rows; e.g. {max(size // batch, 1) * batch}"
        )
    # Place p holds row p - pointer of the batch, if there is one. Written as a choice of every place, each device fills
    # what it holds; an update at an offset that only the step knows would make it move the queue.
    row = (jnp.arange(size) - queue.pointer) % size
    new, source = row < batch, jnp.minimum(row, batch - 1)

    def enter(old: jax.Array, values: jax.Array) -> jax.Array:
        values = jax.lax.stop_gradient(constrain(values.astype(old.dtype), *(None,) * values.ndim))
        entered = jnp.where(new.reshape(-1, *(1,) * (old.ndim - 1)), values[source], old)
        return constrain(entered, "queue", *(None,) * (old.ndim - 1))

    ids = jnp.full(batch, EMPTY, jnp.int32) if ids is None else ids
    return Queue(
        {name: enter(old, features[name]) for name, old in queue.features.items()},
        enter(queue.ids, ids),
        (queue.pointer + batch) % size,
    )


class PastFeatures(nn.Module):
    """A queue as variables of a system, collection "queue": a training step updates and a checkpoint holds it.

    Attributes:
      size: Q.
      widths: (name, D) of each kind of feature.
      numbered: whether rows have ids; without, they are nobody's positives.
    """

    size: int
    widths: tuple[tuple[str, int], ...]
    numbered: bool = False

    def setup(self) -> None:
        found: Queue | None = None
        if self.is_initializing():
            found = start(self.make_rng("params"), self.size, dict(self.widths))

        def first(name: str) -> Any:
            assert found is not None
            value = {**found.features, "ids": found.ids, "pointer": found.pointer}[name]
            axes = ("queue", None)[: value.ndim]
            return nn.LogicallyPartitioned(value, axes) if axes else value

        names = (*(name for name, _ in self.widths), *(("ids",) if self.numbered else ()), "pointer")
        self.rows = {name: self.variable("queue", name, first, name) for name in names}

    def __call__(self) -> Queue:
        """What the queue holds."""
        values = {name: variable.value for name, variable in self.rows.items()}
        ids = values.get("ids", jnp.full(self.size, EMPTY, jnp.int32))
        return Queue({name: values[name] for name, _ in self.widths}, ids, values["pointer"])

    def enter(self, features: dict[str, jax.Array], ids: jax.Array | None = None) -> None:
        """Takes in a batch, see `enqueue`; where the collection cannot change (in evaluation), nothing happens."""
        if self.is_mutable_collection("queue") and not self.is_initializing():
            new = enqueue(self(), features, ids)
            values = {**new.features, "ids": new.ids, "pointer": new.pointer}
            for name, variable in self.rows.items():
                variable.value = values[name]
