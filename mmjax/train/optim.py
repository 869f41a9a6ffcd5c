"""Optimizers from a Stage: schedule, decay mask, layer-wise rates, clipping."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train.layers import check_stated, steps_below_top, towers
from mmjax.train.stage import Stage

_SCANNED = re.compile(r"(^|/)blocks/")


def learning_rate(stage: Stage) -> optax.Schedule:
    """The rate by steps done: from 0 to `lr` over `warmup`, then the named decay, which is at `end_lr` at `steps`."""
    left = max(stage.steps - stage.warmup, 1)
    after: optax.Schedule
    if stage.schedule == "cosine":
        after = optax.cosine_decay_schedule(stage.lr, left, alpha=stage.end_lr / stage.lr if stage.lr else 0.0)
    elif stage.schedule == "linear":
        after = optax.linear_schedule(stage.lr, stage.end_lr, left)
    elif stage.schedule == "exponential":
        after = optax.exponential_decay(stage.lr, left, stage.end_lr / stage.lr, end_value=stage.end_lr)
    else:
        after = optax.constant_schedule(stage.lr)
    if not stage.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, stage.lr, stage.warmup), after], [stage.warmup])


def decay_mask(params: Mapping, no_decay: tuple[str, ...] = (), also_decay: tuple[str, ...] = ()) -> trees.Tree:
    """True for the parameters that weight decay shrinks: gains, biases and scalars are left alone.

    A scanned stack stores its layers on a leading axis, which does not make a bias a matrix.
    """
    flat = trees.flatten(params)
    names = {path: _unrolled(path, leaf) for path, leaf in flat.items()}
    for patterns, what in ((no_decay, "no_decay"), (also_decay, "also_decay")):
        trees.check_patterns([name for group in names.values() for name in group], patterns, what)
    mask = {}
    for path, leaf in flat.items():
        matrix = leaf.ndim - bool(_SCANNED.search(path)) >= 2
        spared = {trees.matches(name, no_decay) for name in names[path]}
        if matrix and len(spared) > 1:
            raise UserError(f"no_decay {list(no_decay)} names some layers of the scanned {path}: name all or none")
        mask[path] = (matrix or any(trees.matches(name, also_decay) for name in names[path])) and not spared.pop()
    return trees.unflatten(mask)


def rate_factors(params: Mapping, stage: Stage, whole: Mapping | None = None) -> trees.Tree:
    """Learning-rate factor per parameter: float, or float[L, 1, …] for a scanned stack whose layers differ.

    Args:
      params: what trains.
      stage: has `lr_scale`, `layer_decay` and `layers`.
      whole: all parameters of the system, where some are frozen: they count among a tower's layers.

    Raises:
      UserError: a pattern matches nothing, or a layer decay meets a parameter that no layer is known of.
    """
    flat = trees.flatten(params)
    paths = {path: _unrolled(path, leaf) for path, leaf in flat.items()}
    names = [name for group in paths.values() for name in group]
    trees.check_patterns(names, [p for p, _ in stage.lr_scale], "lr_scale")
    check_stated(names, stage.layers)
    below = dict.fromkeys(names, 0)
    if stage.layer_decay != 1.0:
        every = flat if whole is None else trees.flatten(whole)
        blocks = towers(name for path, leaf in every.items() for name in _unrolled(path, leaf))
        below = steps_below_top(names, blocks, stage.layers)

    def factor(path: str) -> float:
        pattern = next((f for p, f in stage.lr_scale if re.fullmatch(p, path)), 1.0)
        return pattern * stage.layer_decay ** below[path]

    out: dict[str, Any] = {}
    for path, leaf in flat.items():
        values = np.asarray([factor(p) for p in paths[path]], np.float32)
        same = (values == values[0]).all()
        out[path] = float(values[0]) if same else values.reshape((-1,) + (1,) * (leaf.ndim - 1))
    return trees.unflatten(out)


def _unrolled(path: str, leaf: Any) -> list[str]:
    """The loop-form paths that a parameter stands for."""
    if not _SCANNED.search(path):
        return [path]
    return [_SCANNED.sub(rf"\g<1>block_{i}/", path, count=1) for i in range(leaf.shape[0])]


def make_optimizer(stage: Stage, params: Mapping, whole: Mapping | None = None) -> optax.GradientTransformation:
    """The stage's optimizer for its trainable parameters (abstract ones will do).

    Lion follows Chen et al. 2023 (arXiv:2302.06675), AdamW Loshchilov & Hutter 2019, Adafactor `_adafactor`; decay is
    decoupled in all and multiplied by the scheduled rate. `whole`: see `rate_factors`.
    """
    factors = rate_factors(params, stage, whole)
    parts = [optax.clip_by_global_norm(stage.clip)] if stage.clip else []
    if stage.optimizer == "lion":
        parts.append(optax.scale_by_lion(stage.b1, stage.b2))
    elif stage.optimizer == "adafactor":
        parts += _adafactor(stage)
    else:
        parts.append(optax.scale_by_adam(stage.b1, stage.b2, stage.eps))
    if stage.weight_decay:
        parts.append(
            optax.add_decayed_weights(stage.weight_decay, decay_mask(params, stage.no_decay, stage.also_decay))
        )
    if any(np.any(np.asarray(f) != 1.0) for f in jax.tree.leaves(factors)):
        parts.append(optax.stateless(lambda updates, _: jax.tree.map(_times, updates, factors)))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(stage)))


def _adafactor(stage: Stage) -> list[optax.GradientTransformation]:
    """Adafactor as vision transformers are trained with it (Zhai et al. 2022, "Scaling Vision Transformers", §3.2).

    The second moment of a matrix with two axes of 128 or more is the product of its rows' and columns' means; it decays
    at 1 - t^-0.8 (Shazeer & Stern 2018, §7.2), but never slower than `b2`. Updates of a root mean square above 1 are
    scaled down to it; a momentum of `b1` follows, if it is not 0. There is no scaling by the size of a parameter.
    """

    def decay(step: jax.Array, exponent: Any) -> jax.Array:
        return jnp.minimum(1.0 - (step + 1.0) ** -exponent, stage.b2)

    parts = [optax.scale_by_factored_rms(decay_rate=0.8, decay_rate_fn=decay), optax.clip_by_block_rms(1.0)]
    return [*parts, optax.ema(stage.b1, debias=False)] if stage.b1 else parts


def _times(update: jax.Array, factor: Any) -> jax.Array:
    return update * (factor if isinstance(factor, float) else jnp.broadcast_to(factor, update.shape))
