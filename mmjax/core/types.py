"""Types that cross folders: the batch, the loss term and what a system must offer."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
FIXED = "fixed"  # collection with a leaf `stats` at each module whose running statistics a training step leaves alone
Batch = Mapping[str, Any]  # keys, dtypes and shapes: mmjax/data/example.py


class Term(NamedTuple):
    """One term of an objective: it contributes `weight * sum / count`.

    Keeping sum and count apart lets terms be averaged over accumulation chunks and hosts without bias.
    """

    sum: Array  # float32[]
    count: Array  # type: ignore[assignment]  # float32[]; hides tuple.count
    weight: Array | float = 1.0

    @property
    def mean(self) -> Array:
        return self.sum / self.count


Terms = Mapping[str, Term]


class System(Protocol):
    """What trainer, evaluators and weight maps know of a model: a Linen module with these methods.

    Sub-encoders are dataclass attributes, so that parameters are named img/…, txt/…; a system is applied as
    `system.apply({"params": params}, batch, train=True, method="losses")`.
    """

    def features(self, batch: Batch, *, train: bool) -> Any:
        """Per-example features: every leaf has a leading batch axis. A system whose losses need more than
        features of single examples does not define it, and then cannot use feature-cached accumulation."""
        ...

    def objective(self, features: Any) -> Terms:
        """Losses over the (global) batch of features."""
        ...

    def losses(self, batch: Batch, *, train: bool) -> Terms:
        """`objective(features(batch))`, for systems that have both.

        A system that learns from a teacher has `teach(batch, *, train) -> tree`, which a step calls with the teacher's
        parameters, and takes two more arguments here: `taught`, what it returned (None: the stage has no teacher), and
        `step`, the steps done in the stage.
        """
        ...

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch; `length`: tokens of a text."""
        ...


def total(terms: Terms) -> Array:
    """The scalar objective: the weighted sum of the terms' means."""
    return sum(term.weight * term.sum / term.count for term in terms.values())  # type: ignore[return-value]
