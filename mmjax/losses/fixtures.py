"""The losses as golden fixtures name them: arrays in, the value and all gradients out."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.errors import UserError
from mmjax.core.types import Term
from mmjax.losses.contrastive import sigmoid_contrastive, softmax_contrastive

LOSSES: dict[str, tuple[Callable[..., Term], tuple[str, ...]]] = {
    "clip_softmax": (softmax_contrastive, ("image_features", "text_features", "logit_scale")),
    "siglip": (sigmoid_contrastive, ("image_features", "text_features", "logit_scale", "logit_bias")),
}
"""Name in a fixture's config.json -> (loss, the inputs that it takes, in order)."""


def run_loss(name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Value and gradients of the loss that a fixture names.

    Args:
        name: a key of `LOSSES`.
        inputs: float[B, D] image_features, text_features; float[] logit_scale and, for siglip, logit_bias.

    Returns:
        loss float[]; grad_<input>, of each input's shape; grad_log_logit_scale float[], the gradient by the
        logarithm of the scale.

    Raises:
        UserError: unknown name; inputs other than those that the loss takes.
    """
    if name not in LOSSES:
        raise UserError(f"unknown loss {name!r}; there are {', '.join(sorted(LOSSES))}")
    loss, names = LOSSES[name]
    if set(inputs) != set(names):
        raise UserError(f"loss {name!r} takes {', '.join(names)}; got {', '.join(sorted(inputs)) or 'nothing'}")
    arrays = [jnp.asarray(inputs[key], jnp.float32) for key in names]
    value, grads = jax.value_and_grad(lambda *a: loss(*a).mean, argnums=tuple(range(len(names))))(*arrays)
    outputs = {"loss": value} | {f"grad_{key}": grad for key, grad in zip(names, grads, strict=True)}
    outputs["grad_log_logit_scale"] = inputs["logit_scale"] * outputs["grad_logit_scale"]
    return {key: np.asarray(value, np.float32) for key, value in outputs.items()}
