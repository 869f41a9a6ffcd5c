"""Image-text matching: does this text belong to this image? With negatives from the whole global batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.sharding import constrain
from mmjax.core.types import Term
from mmjax.losses.negatives import draw_negatives, take_rows


class Negatives(NamedTuple):
    """For each text a wrong image, for each image a wrong text; rows of the global batch.

    Attributes:
      img, txt: int32[B].
      img_there, txt_there: bool[B], whether there is a wrong one at all (not, if all pairs show the same picture).
    """

    img: Integer[Array, "B"]
    txt: Integer[Array, "B"]
    img_there: Bool[Array, "B"]
    txt_there: Bool[Array, "B"]


def draw(
    key: jax.Array,
    img_logits: Float[Array, "B B"],
    txt_logits: Float[Array, "B B"],
    ids: Integer[Array, "B"] | None = None,
    *,
    floor: float = 0.0,
    hard: bool = True,
) -> Negatives:
    """Negatives drawn by the contrastive similarities: the more alike, the likelier.

    Args:
      key: of the draw.
      img_logits: float[B, B], scaled similarities of image i (row) with text j.
      txt_logits: float[B, B], of text i (row) with image j.
      ids: int[B], pairs of equal id are no negatives of each other.
      floor: see `negatives.negative_weights`.
      hard: False draws all candidates with equal probability (to measure what hard ones bring).

    Source: Li et al. 2021 (ALBEF), §3.2.
    """
    if not hard:
        img_logits, txt_logits = jnp.zeros_like(img_logits), jnp.zeros_like(txt_logits)
    for_text, for_image = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    img, img_there = draw_negatives(for_text, txt_logits, ids, floor)
    txt, txt_there = draw_negatives(for_image, img_logits, ids, floor)
    return Negatives(img, txt, img_there, txt_there)


def with_negatives(img: Any, txt: Any, negatives: Negatives) -> tuple[Any, Any, Bool[Array, "N"], Bool[Array, "N"]]:
    """(images, texts, whether they fit, whether they count) of 3B pairs: (i, t), (wrong i, t), (i, wrong t) per row.

    A row's three pairs stand side by side, so that each device keeps its own.

    Args:
      img, txt: trees of arrays [B, ...].
      negatives: what to pair them with.
    """
    wrong_img, wrong_txt = take_rows(img, negatives.img), take_rows(txt, negatives.txt)
    fits = jnp.stack([jnp.ones_like(negatives.img_there), *[jnp.zeros_like(negatives.img_there)] * 2], axis=1)
    counts = jnp.stack([jnp.ones_like(negatives.img_there), negatives.img_there, negatives.txt_there], axis=1)
    images = jax.tree.map(lambda x, wrong: _side_by_side(x, wrong, x), img, wrong_img)
    texts = jax.tree.map(lambda x, wrong: _side_by_side(x, x, wrong), txt, wrong_txt)
    return images, texts, fits.reshape(-1), counts.reshape(-1)


def _side_by_side(*parts: Array) -> Array:
    """[B, ...] three times -> [3B, ...], row by row."""
    x = jnp.stack(parts, axis=1)  # [B, 3, ...]
    x = x.reshape(-1, *x.shape[2:])  # [3B, ...]
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


def matching(logits: Float[Array, "N 2"], fits: Bool[Array, "N"], counts: Bool[Array, "N"] | None = None) -> Term:
    """Cross-entropy of pairs that fit (class 1) or do not (class 0), over those that count; nats.

    Source: Li et al. 2021 (ALBEF), equation 3.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    each = -jnp.where(fits, log_p[:, 1], log_p[:, 0])
    weight = jnp.ones(len(logits), jnp.float32) if counts is None else counts.astype(jnp.float32)
    return Term(jnp.sum(each * weight), jnp.sum(weight))
