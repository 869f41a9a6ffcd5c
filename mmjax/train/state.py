"""All that training changes, in one tree."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from mmjax.core import trees
from mmjax.train.stage import Stage


@flax.struct.dataclass
class State:
    """The state of one stage; every leaf is an array, so it is sharded, donated and checkpointed whole.

    Trees of this form hold shapes or shardings in the place of arrays, too.

    Attributes:
      step: int32[] steps done in this stage.
      params: what trains; gradients and optimizer state exist for these alone.
      frozen: parameters that this stage leaves as they are.
      stats: variables that a forward pass updates (batch-norm statistics).
      opt: optimizer state.
      teacher: exponential moving average of the parameters that the stage names.
      rng: key from which every step's streams are folded.
    """

    step: Any
    params: dict
    frozen: dict
    stats: dict
    opt: Any
    teacher: dict
    rng: Any

    def variables(self, evaluate: str = "student") -> dict:
        """What `system.apply` takes; `evaluate="teacher"` replaces the averaged parameters."""
        teacher = self.teacher if evaluate == "teacher" else {}
        return {"params": trees.merge(self.frozen, self.params, teacher), **self.stats}


def begin(stage: Stage, tx: optax.GradientTransformation, variables: Mapping, rng: jax.Array) -> State:
    """The first state of a stage.

    Raises:
      UserError: a `train` or `teacher` pattern matches no parameter.
    """
    params = variables["params"]
    trainable, frozen = trees.split(params, stage.train, "train")
    teacher = jax.tree.map(jnp.copy, trees.split(params, stage.teacher, "teacher")[0]) if stage.teacher else {}
    stats = {k: v for k, v in variables.items() if k != "params"}
    return State(jnp.zeros((), jnp.int32), trainable, frozen, stats, tx.init(trainable), teacher, rng)
