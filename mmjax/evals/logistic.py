"""Multinomial logistic regression by L-BFGS, and the choice of its penalty on a validation set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Float32, Int

STEPS_PER_DECADE = 8
DECADES = (-6, 6)  # of the penalty
_COARSE = 2 * STEPS_PER_DECADE  # between the first penalties that are tried


@dataclass(frozen=True)
class Classifier:
    """A linear classifier.

    Attributes:
      kernel: float32[D, C]. bias: float32[C].
      iterations: of L-BFGS.
      gradient: largest entry of the objective's gradient at the end, for features of unit variance.
      converged: whether the gradient came below the tolerance, or the objective stopped falling, before the last
        iteration that was allowed.
    """

    kernel: Float32[np.ndarray, "D C"]
    bias: Float32[np.ndarray, " C"]
    iterations: int
    gradient: float
    converged: bool

    def logits(self, features: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N C"]:
        """Unnormalised log-probabilities of the classes."""
        return features @ self.kernel + self.bias[None, :]


def fit(
    features: Float32[np.ndarray, "N D"],
    labels: Int[np.ndarray, " N"],
    classes: int,
    l2: float,
    *,
    weights: Float[np.ndarray, " N"] | None = None,
    start: Classifier | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> Classifier:
    """The classifier that minimises

    sum_i w_i * -log softmax(x_i W + b)[y_i]  +  l2 / 2 * |W|²

    which is scikit-learn's `LogisticRegression(C=1 / l2)`: the sum, not the mean, over examples; the bias is free. The
    optimum does not depend on the shift of the features and scales with them, so they are centred and brought to unit
    variance (all by one factor) before the search, which then needs fewer iterations, and back after it.

    Args:
      features: N examples.
      labels: 0 … C - 1, each at least once among the weighted examples (else the optimum lies at infinity).
      classes: C.
      l2: the penalty, > 0.
      weights: of the examples; zero leaves one out without another compilation. Default: ones.
      start: where the search begins; default: zeros.
      tolerance: of the gradient's largest entry, per example.
      max_iterations: at most so many.

    Raises:
      ValueError: fewer than two classes, a class without an example, or a penalty that is not positive.
    """
    weights = np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)
    if classes < 2 or l2 <= 0:
        raise ValueError(f"logistic regression needs two classes and a positive penalty, not {classes} and {l2}")
    if set(labels[weights > 0].tolist()) != set(range(classes)):
        raise ValueError(f"every class of 0 … {classes - 1} needs an example")
    centre = np.average(features, axis=0, weights=weights).astype(np.float32)
    scale = float(np.sqrt(np.average((features - centre[None, :]) ** 2, axis=0, weights=weights).mean())) or 1.0
    rows, width = (features - centre[None, :]) / np.float32(scale), features.shape[1]
    begin = np.zeros((width + 1, classes))
    if start is not None:
        begin = np.concatenate([start.kernel * scale, (start.bias + centre @ start.kernel)[None, :]])
    # float64 where it costs little: weak penalties make flat valleys, which float32 cannot follow to the end.
    exact = jax.default_backend() == "cpu"
    with jax.enable_x64(exact):
        data = [jnp.asarray(x, jnp.float64 if exact else jnp.float32) for x in (rows, weights)]
        target = jnp.asarray(labels, jnp.int32)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            params = jnp.asarray(flat.reshape(begin.shape), data[0].dtype)
            value, gradient = _objective(params, *data, target, l2 / scale**2)
            return float(value), np.asarray(gradient, np.float64).reshape(-1)

        options = {"maxiter": max_iterations, "maxfun": 20 * max_iterations, "gtol": tolerance, "maxls": 50,
                   "ftol": 64 * jnp.finfo(data[0].dtype).eps}  # fmt: skip
        found = scipy.optimize.minimize(objective, begin.reshape(-1), jac=True, method="L-BFGS-B", options=options)
    best = found.x.reshape(begin.shape)
    kernel = (best[:width] / scale).astype(np.float32)
    bias = (best[width] - centre.astype(np.float64) @ (best[:width] / scale)).astype(np.float32)
    return Classifier(kernel, bias, int(found.nit), float(np.abs(found.jac).max()), found.nit < max_iterations)


@jax.jit
@jax.value_and_grad
def _objective(
    params: Float[Array, "D1 C"],
    features: Float[Array, "N D"],
    weights: Float[Array, " N"],
    labels: Int[Array, " N"],
    l2: float | Float[Array, ""],
) -> Float[Array, ""]:
    """The objective over the sum of the weights; the last row of the parameters is the bias."""
    kernel, bias = params[:-1], params[-1]
    # HIGHEST: with an accelerator's default (bf16 products) the line search would see steps in the value.
    logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST) + bias[None, :]
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=1) - right
    return (jnp.vdot(weights, losses) + 0.5 * l2 * jnp.vdot(kernel, kernel)) / weights.sum()


class Tried(NamedTuple):
    """A penalty that the sweep tried, and what it gave on the validation set."""

    l2: float
    accuracy: float
    loss: float  # mean cross-entropy, nats
    iterations: int


def sweep(try_out: Callable[[float], Tried]) -> list[Tried]:
    """Penalties tried by CLIP's parametric binary search, the best one first, then by penalty.

    From 10^-6 to 10^6: every second decade first; then the interval around the peak is halved until there are eight
    steps to a decade. Equal accuracies, frequent on small validation sets, are told apart by the loss.

    Args:
      try_out: fits with a penalty and measures on the validation set.

    Source: CLIP, appendix A.3.
    """
    low, high = (decade * STEPS_PER_DECADE for decade in DECADES)
    tried: dict[int, Tried] = {}

    def best() -> int:
        return max(tried, key=lambda place: (tried[place].accuracy, -tried[place].loss))

    places, step = list(range(high, low - 1, -_COARSE)), _COARSE  # strong penalties first: they are quick to fit
    while True:
        for place in places:
            if low <= place <= high and place not in tried:
                tried[place] = try_out(10.0 ** (place / STEPS_PER_DECADE))
        if step == 1:
            break
        step //= 2
        places = [best() + step, best() - step]
    first = best()
    return [tried[first], *(tried[place] for place in sorted(tried) if place != first)]
