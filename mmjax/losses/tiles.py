"""All pairs of a batch, one tile of logits at a time, on one device or around a ring of devices.

A contrastive loss needs the B×B logits `rows · colsᵀ + bias`, but only sums over their rows and columns. Here the
matrix is visited in tiles of block×block; no larger piece of it ever exists. The gradient is derived by hand: the
backward pass visits the same tiles again and rebuilds each from the features and the per-row and per-column losses,
as attention kernels do (online softmax: Milakov & Gimelshein 2018; for this loss: Cheng et al. 2024, "Breaking the
memory barrier"). Differentiating the loops instead would save their carries: O(B²/block) of them.

On a ring every device keeps its rows; the columns travel with what they have accumulated, and are home after as many
hops as there are devices. `custom_vjp` stands outside of `shard_map`, so that both passes are plain forward programs
and nothing has to be transposed through the collectives.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from mmjax.core.errors import UserError

BLOCK = 1024  # a tile of 4 MB in float32: large enough for full speed, small beside the features


class Side(NamedTuple):
    """The rows or the columns of the logits."""

    features: Array  # float32[B, D]
    ids: Array  # int32[B]: 1 + position in the global batch; 0 is padding
    positive: Array  # float32[B]: logit of the matching pair


class Ring(NamedTuple):
    """The mesh axes that the batch is split over, as one ring."""

    axes: tuple[str, ...]
    size: int


@runtime_checkable
class Rule(Protocol):
    """What a loss makes of one tile. `own` marks matching pairs, `valid` pairs without padding."""

    start: float
    """Initial value of a row's or column's running sum."""
    weight: float
    """Weight of every row's and column's loss in the sum."""

    def accumulate(
        self, logits: Array, own: Array, valid: Array, rows: Side, cols: Side, row_sum: Array, col_sum: Array
    ) -> tuple[Array, Array]:
        """Adds a tile to the running sums of its rows and columns."""
        ...

    def finish(self, total: Array) -> Array:
        """The losses of rows or columns from their sums over all tiles."""
        ...

    def slope(self, logits: Array, own: Array, rows: Side, cols: Side, row_loss: Array, col_loss: Array) -> Array:
        """d(weighted sum of all losses)/d(logits), from the finished losses of rows and columns."""
        ...


class SoftmaxRule:
    """Cross-entropy of every row and of every column with the matching pair as the target, each weighing a half.

    The running sums are n = log Σ exp(logit - positive) over the negatives alone; the loss is log(1 + exp n). Near
    convergence it keeps its relative precision, where log Σ exp(logit) - positive cancels two large numbers.
    """

    start, weight = -jnp.inf, 0.5

    def accumulate(
        self,
        logits: Float[Array, "B S"],
        own: Bool[Array, "B S"],
        valid: Bool[Array, "B S"],
        rows: Side,
        cols: Side,
        row_sum: Float[Array, "B"],
        col_sum: Float[Array, "S"],
    ) -> tuple[Float[Array, "B"], Float[Array, "S"]]:
        negative = jnp.where(valid & ~own, logits, -jnp.inf)
        by_row = jax.nn.logsumexp(negative - rows.positive[:, None], axis=1)
        by_col = jax.nn.logsumexp(negative - cols.positive[None, :], axis=0)
        return jnp.logaddexp(row_sum, by_row), jnp.logaddexp(col_sum, by_col)

    def finish(self, total: Float[Array, "B"]) -> Float[Array, "B"]:
        return jax.nn.softplus(total)

    def slope(
        self,
        logits: Float[Array, "B S"],
        own: Bool[Array, "B S"],
        rows: Side,
        cols: Side,
        row_loss: Float[Array, "B"],
        col_loss: Float[Array, "S"],
    ) -> Float[Array, "B S"]:
        by_row = jnp.exp(logits - (rows.positive + row_loss)[:, None])
        by_col = jnp.exp(logits - (cols.positive + col_loss)[None, :])
        at_own = jnp.expm1(-row_loss)[:, None] + jnp.expm1(-col_loss)[None, :]  # p - 1, without cancellation
        return self.weight * jnp.where(own, at_own, by_row + by_col)


class SigmoidRule:
    """-log σ(±logit) of every pair, plus for matching pairs; the sum is kept by row."""

    start, weight = 0.0, 1.0

    def accumulate(
        self,
        logits: Float[Array, "B S"],
        own: Bool[Array, "B S"],
        valid: Bool[Array, "B S"],
        rows: Side,
        cols: Side,
        row_sum: Float[Array, "B"],
        col_sum: Float[Array, "S"],
    ) -> tuple[Float[Array, "B"], Float[Array, "S"]]:
        pair = jax.nn.softplus(jnp.where(own, -logits, logits))
        return row_sum + jnp.sum(jnp.where(valid, pair, 0.0), axis=1), col_sum

    def finish(self, total: Float[Array, "B"]) -> Float[Array, "B"]:
        return total

    def slope(
        self,
        logits: Float[Array, "B S"],
        own: Bool[Array, "B S"],
        rows: Side,
        cols: Side,
        row_loss: Float[Array, "B"],
        col_loss: Float[Array, "S"],
    ) -> Float[Array, "B S"]:
        return jnp.where(own, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))


SOFTMAX, SIGMOID = SoftmaxRule(), SigmoidRule()


def products(rows: Float[Array, "B D"], cols: Float[Array, "S D"]) -> Float[Array, "B S"]:
    """`rows · colsᵀ` in full float32: logits reach ±100, and the reduced precision that accelerators use by default
    would leave errors of a tenth in them."""
    return jnp.einsum("BD,SD->BS", rows, cols, precision=lax.Precision.HIGHEST)


def ring_over(axis: str | tuple[str, ...], batch: int) -> Ring:
    """The ring over `axis` of the mesh in context (`with jax.set_mesh(mesh)`).

    Raises:
        UserError: no mesh in context, an axis that it does not have, or a batch that the ring does not divide.
    """
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise UserError('contrastive loss: form="ring" needs a mesh in context: `with jax.set_mesh(mesh): ...`')
    unknown = [a for a in axes if a not in mesh.axis_names]
    if unknown or not axes:
        raise UserError(f'contrastive loss: form="ring" over axis {axis!r}: the mesh has {mesh.axis_names}')
    size = math.prod(mesh.shape[a] for a in axes)
    if batch % size:
        raise UserError(f"contrastive loss: a batch of {batch} does not divide over a ring of {size} devices ({axes})")
    return Ring(axes, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def pair_loss(
    rule: Rule,
    block: int,
    ring: Ring | None,
    rows: Float[Array, "B D"],
    cols: Float[Array, "B D"],
    bias: Float[Array, ""],
) -> Float[Array, ""]:
    """Sum over the batch of `rule`'s loss on the logits `rows · colsᵀ + bias`, in tiles.

    Args:
        rule: SOFTMAX or SIGMOID.
        block: largest side of a tile; it need not divide B.
        ring: devices that B is split over, or None to compute in one place.
        rows: float[B, D], already scaled.
        cols: float[B, D].
        bias: float[].

    Memory: O(B·D + block²), per device of the ring O(B·D/devices + block²).
    """
    return _forward(rule, block, ring, rows, cols, bias)[0]


def _forward(rule: Rule, block: int, ring: Ring | None, rows: Array, cols: Array, bias: Array) -> tuple[Array, Any]:
    def local(rows: Array, cols: Array, bias: Array) -> tuple[Array, Array]:
        sides, count = _sides(ring, rows, cols), rows.shape[0]

        def tile(row: Side, row_sum: Array, col: Side, col_sum: Array) -> tuple[Array, Array]:
            logits = products(row.features, col.features) + bias
            return rule.accumulate(logits, *_pairs(row, col), row, col, row_sum, col_sum)

        start = _everywhere(ring, jnp.full(count, rule.start, jnp.float32))
        row_sum, col_sum = _visit(tile, block, ring, sides, (start, start))
        return rule.finish(row_sum), rule.finish(col_sum)

    row_loss, col_loss = _on(ring, local, rows, cols, replicated=(bias,))
    return rule.weight * jnp.sum(row_loss + col_loss), (rows, cols, bias, row_loss, col_loss)


def _backward(rule: Rule, block: int, ring: Ring | None, saved: Any, grad: Array) -> tuple[Array, Array, Array]:
    def local(rows: Array, cols: Array, row_loss: Array, col_loss: Array, bias: Array) -> tuple[Any, Array]:
        row_side, col_side = _sides(ring, rows, cols)
        sides = (row_side, row_loss), (col_side, col_loss)

        def tile(
            rows: tuple[Side, Array], row_grad: tuple[Array, Array], cols: tuple[Side, Array], col_grad: Array
        ) -> Any:
            (row, row_loss), (col, col_loss) = rows, cols
            own, valid = _pairs(row, col)
            logits = products(row.features, col.features) + bias
            slope = jnp.where(valid, rule.slope(logits, own, row, col, row_loss, col_loss), 0.0)
            by_feature, by_bias = row_grad
            by_feature = by_feature + products(slope, col.features.T)
            return (by_feature, by_bias + slope.sum(axis=1)), col_grad + products(slope.T, row.features.T)

        zeros = _everywhere(ring, jnp.zeros(rows.shape, jnp.float32))
        return _visit(tile, block, ring, sides, ((zeros, zeros[:, 0]), zeros))

    rows, cols, bias, row_loss, col_loss = saved
    (to_rows, to_bias), to_cols = _on(ring, local, rows, cols, row_loss, col_loss, replicated=(bias,))
    return grad * to_rows, grad * to_cols, grad * jnp.sum(to_bias)


pair_loss.defvjp(_forward, _backward)


def _on(ring: Ring | None, local: Callable, *split: Array, replicated: tuple[Array, ...]) -> Any:
    """Runs `local` here, or on every device of the ring with its part of the `split` arrays."""
    if ring is None:
        return local(*split, *replicated)
    by_batch = PartitionSpec(ring.axes)
    in_specs = (by_batch,) * len(split) + (PartitionSpec(),) * len(replicated)
    return jax.shard_map(local, in_specs=in_specs, out_specs=by_batch, check_vma=True)(*split, *replicated)


def _sides(ring: Ring | None, rows: Float[Array, "B D"], cols: Float[Array, "B D"]) -> tuple[Side, Side]:
    count = rows.shape[0]
    first = 0 if ring is None else lax.axis_index(ring.axes) * count
    ids = first + jnp.arange(1, count + 1)
    # the bias is left out: the softmax, which alone reads positive logits, has none
    positive = jnp.sum(rows * cols, axis=-1)
    return Side(rows, ids, positive), Side(cols, ids, positive)


def _pairs(row: Side, col: Side) -> tuple[Bool[Array, "B S"], Bool[Array, "B S"]]:
    """(matching pairs, pairs without padding) of a tile."""
    valid = (row.ids > 0)[:, None] & (col.ids > 0)[None, :]
    return valid & (row.ids[:, None] == col.ids[None, :]), valid


def _everywhere(ring: Ring | None, x: Array) -> Array:
    """Marks a constant as differing between the ring's devices, which is what a loop accumulates into."""
    return x if ring is None else lax.pcast(x, ring.axes, to="varying")


def _visit(tile: Callable, block: int, ring: Ring | None, sides: tuple[Any, Any], start: tuple[Any, Any]) -> Any:
    """Calls `tile(row, row_sum, col, col_sum) -> (row_sum, col_sum)` for all pairs of blocks; the final sums.

    `sides` and `start`, for rows and for columns, are trees of arrays [B, ...]; blocks are filled up with zeros.
    """
    count = jax.tree.leaves(start)[0].shape[0]
    blocks = -(-count // block)
    size = -(-count // blocks)  # even blocks waste less on padding than full ones and a rest

    def cut(x: Array) -> Array:  # [B, ...] -> [blocks, size, ...]
        padding = [(0, blocks * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, size, *x.shape[1:])

    def join(x: Array) -> Array:  # [blocks, size, ...] -> [B, ...]
        return x.reshape(blocks * size, *x.shape[2:])[:count]

    (rows, cols), (row_sum, col_sum) = jax.tree.map(cut, (sides, start))
    if ring is None:
        row_sum, col_sum = _sweep(tile, rows, row_sum, cols, col_sum)
    else:
        hop = functools.partial(
            lax.ppermute, axis_name=ring.axes, perm=[(i, (i + 1) % ring.size) for i in range(ring.size)]
        )

        def step(carry: Any, _: None) -> tuple[Any, None]:
            cols, row_sum, col_sum = carry
            arriving = hop(cols)  # before the tiles, which do not need it: the transfer can hide behind them
            row_sum, col_sum = _sweep(tile, rows, row_sum, cols, col_sum)
            return (arriving, row_sum, hop(col_sum)), None

        (_, row_sum, col_sum), _ = lax.scan(step, (cols, row_sum, col_sum), length=ring.size)
    return jax.tree.map(join, (row_sum, col_sum))


def _sweep(tile: Callable, rows: Any, row_sum: Any, cols: Any, col_sum: Any) -> tuple[Any, Any]:
    """One visit of all pairs of blocks that are on this device."""

    def over_rows(col_sum: Any, row_block: tuple[Any, Any]) -> tuple[Any, Any]:
        row, row_sum = row_block

        def over_cols(row_sum: Any, col_block: tuple[Any, Any]) -> tuple[Any, Any]:
            col, col_sum = col_block
            return tile(row, row_sum, col, col_sum)

        row_sum, col_sum = lax.scan(over_cols, row_sum, (cols, col_sum))
        return col_sum, row_sum

    col_sum, row_sum = lax.scan(over_rows, col_sum, (rows, row_sum))
    return row_sum, col_sum
