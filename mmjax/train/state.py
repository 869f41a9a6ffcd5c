"""All that training changes, in one tree."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from mmjax.core import trees
from mmjax.train.stage import Stage

TEACHER = "teacher"  # collection of momentum copies in variables


@flax.struct.dataclass
class State:
    """The state of one stage; every leaf is an array, so it is sharded, donated and checkpointed whole.

    Trees of this form hold shapes or shardings in the place of arrays, too.

    Attributes:
      step: int32[] steps done in this stage.
      params: what trains; gradients and optimizer state exist for these alone.
      frozen: parameters that this stage leaves as they are.
      stats: variables that a forward pass updates (batch-norm statistics, queues of features).
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
    """The first state of a stage. Its teacher begins as a copy of the student, or as the variables' own (a published
    checkpoint's momentum copies, collection "teacher") where there is one.

    Raises:
      UserError: a `train` or `teacher` pattern matches no parameter.
    """
    params = variables["params"]
    trainable, frozen = trees.split(params, stage.train, "train")
    teacher = {}
    if stage.teacher:
        student, given = trees.split(params, stage.teacher, "teacher")[0], trees.flatten(variables.get(TEACHER, {}))
        own = {path: given.get(path, leaf) for path, leaf in trees.flatten(student).items()}
        teacher = jax.tree.map(jnp.copy, trees.unflatten(own))
    stats = {k: v for k, v in variables.items() if k not in ("params", TEACHER)}
    return State(jnp.zeros((), jnp.int32), trainable, frozen, stats, tx.init(trainable), teacher, rng)


def moving_average(teacher: Mapping, student: Mapping, decay: float) -> dict:
    """`decay · teacher + (1 - decay) · student`, for the parameters that the teacher has."""
    found = trees.flatten(student)
    return trees.unflatten(
        {path: decay * leaf + (1 - decay) * found[path] for path, leaf in trees.flatten(teacher).items()}
    )
