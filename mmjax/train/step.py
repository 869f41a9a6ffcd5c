"""One training step as a pure function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax.core import rng as rngs
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.types import FIXED, Batch, Terms, total
from mmjax.train.accumulate import cached_value_and_grad
from mmjax.train.stage import Stage
from mmjax.train.state import State

RNG_STREAMS = ("dropout",)


def train_step(
    system: Any, tx: optax.GradientTransformation, stage: Stage, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step on a global batch.

    Gradients are taken over the trainable parameters only. Metrics: `loss`, `grad_norm` (before clipping), `param_norm`
    (of the trainable parameters, updated: not finite if any of them is not) and the mean of every term.
    """
    grads: Any
    if stage.chunks > 1:
        (loss, aux), grads = _cached(system, stage, state, batch)
    else:
        key = rngs.streams(state.rng, RNG_STREAMS, state.step)
        fixed = fixed_stats(state)

        def objective(params: dict) -> tuple[jax.Array, tuple[Terms, dict]]:
            variables = {"params": trees.merge(state.frozen, params), **state.stats, **fixed}
            terms, stats = system.apply(
                variables, batch, train=True, method="losses", rngs=key, mutable=list(state.stats)
            )
            return total(terms), (terms, stats)

        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    terms, stats = aux

    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    if hasattr(system, "constrain"):
        params = system.constrain(params)
    teacher = state.teacher
    if stage.teacher:
        student, _ = trees.split(trees.merge(state.frozen, params), stage.teacher, "teacher")
        teacher = jax.tree.map(lambda t, s: stage.teacher_decay * t + (1 - stage.teacher_decay) * s, teacher, student)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    metrics |= {k: term.mean for k, term in terms.items()}
    stats = {**state.stats, **stats}
    state = State(state.step + 1, params, state.frozen, stats, opt, teacher, state.rng)
    return state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)


def fixed_stats(state: State) -> dict[str, dict]:
    """{FIXED: …}: a leaf `stats` at every module with running statistics and no parameter that trains.

    Its statistics do not move, and the forward pass uses them in the place of the batch's: a frozen module computes
    what it computes in evaluation.
    """
    training = _modules(state.params)
    found = {module for tree in state.stats.values() for module in _modules(tree)}
    leaves = {f"{module}/stats": np.zeros((), np.bool_) for module in sorted(found - training)}
    return {FIXED: trees.unflatten(leaves)} if leaves else {}


def _modules(tree: dict) -> set[str]:
    return {path.rpartition("/")[0] for path in trees.flatten(tree)}


def _cached(system: Any, stage: Stage, state: State, batch: Batch) -> Any:
    """The whole batch's gradient, computed chunk by chunk with the features cached (Gao et al. 2021, GradCache)."""
    if not (hasattr(system, "features") and hasattr(system, "objective")):
        raise UserError(f"{type(system).__name__} has no features/objective: chunks={stage.chunks} needs both; use 1")
    if state.stats:
        raise UserError(f"chunks={stage.chunks}: batch-norm statistics {sorted(state.stats)} of chunks differ from "
                        "those of the batch; use chunks=1")  # fmt: skip

    def features(params: dict, chunk: Batch, key: jax.Array) -> Any:
        variables = {"params": trees.merge(state.frozen, params)}
        keys = rngs.streams(key, RNG_STREAMS)
        return system.apply(variables, chunk, train=True, method="features", rngs=keys)

    def objective(params: dict, feats: Any) -> tuple[jax.Array, tuple[Terms, dict]]:
        terms = system.apply({"params": trees.merge(state.frozen, params)}, feats, method="objective")
        return total(terms), (terms, {})

    key = jax.random.fold_in(state.rng, state.step)
    return cached_value_and_grad(features, objective, stage.chunks)(state.params, batch, key)
