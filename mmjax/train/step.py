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
from mmjax.train.state import State, moving_average

RNG_STREAMS = ("dropout", "masks", "negatives")


def train_step(
    system: Any, tx: optax.GradientTransformation, stage: Stage, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step on a global batch.

    Gradients are taken over the trainable parameters only. Metrics: `loss`, `grad_norm` (before clipping), `param_norm`
    (of the trainable parameters, updated: not finite if any of them is not) and the mean of every term.
    """
    grads: Any
    system = with_tasks(system, stage)
    if stage.chunks > 1:
        (loss, aux), grads = _cached(system, stage, state, batch)
    else:
        key = rngs.streams(state.rng, RNG_STREAMS, state.step)
        fixed, lesson = fixed_stats(state), _lesson(system, stage, state, batch, key)

        def objective(params: dict) -> tuple[jax.Array, tuple[Terms, dict]]:
            variables = {"params": trees.merge(state.frozen, params), **state.stats, **fixed}
            terms, stats = system.apply(
                variables, batch, train=True, **lesson, method="losses", rngs=key, mutable=list(state.stats)
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
        teacher = moving_average(teacher, trees.merge(state.frozen, params), stage.teacher_decay)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
    metrics |= {k: term.mean for k, term in terms.items()}
    stats = {**state.stats, **stats}
    state = State(state.step + 1, params, state.frozen, stats, opt, teacher, state.rng)
    return state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)


def with_tasks(system: Any, stage: Stage) -> Any:
    """The system as a stage trains it: with the stage's tasks alone.

    Raises:
      UserError: it was not built for such a task, or one of them needs another.
    """
    if not stage.tasks:
        return system
    known = tuple(getattr(system, "tasks", ()))
    if unknown := [task for task in stage.tasks if task not in known]:
        raise UserError(f"stage: tasks {unknown}; valid for this {type(system).__name__}: {list(known) or 'none'}")
    for task, needed in getattr(system, "needs", {}).items():
        if task in stage.tasks and needed not in stage.tasks:
            raise UserError(f"stage: tasks {list(stage.tasks)}: {task!r} needs {needed!r}, too")
    return system.clone(tasks=stage.tasks)


def _lesson(system: Any, stage: Stage, state: State, batch: Batch, key: dict[str, jax.Array]) -> dict[str, Any]:
    """What `losses` of a system that learns from a teacher takes besides: the teacher's outputs, and the step.

    The teacher draws the same masks as the student, and drops out other units.
    """
    if not hasattr(system, "teach"):
        return {}
    taught = None
    if stage.teacher:
        own = {**key, "dropout": rngs.stream(state.rng, "teacher", state.step)}
        taught = system.apply(state.variables("teacher"), batch, train=True, method="teach", rngs=own)
    return {"taught": jax.lax.stop_gradient(taught), "step": state.step}


def fixed_stats(state: State) -> dict[str, dict]:
    """{FIXED: …}: a leaf `stats` at every module with running statistics whose parameters are all frozen.

    Its statistics do not move, and the forward pass uses them in the place of the batch's: a frozen module computes
    what it computes in evaluation.
    """
    training = _modules(state.params)
    found = {module for tree in state.stats.values() for module in _modules(tree)} & _modules(state.frozen)
    leaves = {f"{module}/stats": np.zeros((), np.bool_) for module in sorted(found - training)}
    return {FIXED: trees.unflatten(leaves)} if leaves else {}


def _modules(tree: dict) -> set[str]:
    return {path.rpartition("/")[0] for path in trees.flatten(tree)}


def caches_features(system: Any) -> bool:
    """Whether a system's batch can be computed in chunks: its loss is one of features alone."""
    return hasattr(system, "features") and hasattr(system, "objective")


def _cached(system: Any, stage: Stage, state: State, batch: Batch) -> Any:
    """The whole batch's gradient, computed chunk by chunk with the features cached (Gao et al. 2021, GradCache)."""
    if not caches_features(system):
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
