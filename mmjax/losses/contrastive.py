"""Contrastive losses between images and texts over the global batch: softmax (CLIP) and sigmoid (SigLIP).

Both come in three forms with the same values and gradients:

plain     the B×B logits at once; under jit with a sharded batch the negatives are still those of the whole batch.
blocked   tiles of logits on one device: memory O(B·D + block²) where plain needs several B×B matrices.
ring      tiles of logits on every device of the mesh, texts passed from device to device.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.core.types import Term
from mmjax.losses import tiles

FORMS = ("plain", "blocked", "ring")


def softmax_contrastive(
    img: Float[Array, "_ _"],
    txt: Float[Array, "_ _"],
    scale: Float[Array, ""] | float,
    *,
    form: str = "plain",
    block: int | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """Symmetric cross-entropy of matching images and texts in a batch.

        L = -1/2B Σ_i [log softmax_j(s·x_i·y_j)[i] + log softmax_j(s·x_j·y_i)[i]]

    Args:
        img: float[B, D], rows of unit length (not normalised here).
        txt: float[B, D], the same; row i belongs to image i.
        scale: float[], the inverse temperature s, already exponentiated.
        form: "plain", "blocked" or "ring" (see the module's description).
        block: side of the tiles in the forms "blocked" and "ring", 1024 by default; it need not divide B.
        axis: mesh axis, or axes, over which B is sharded; read by the form "ring" alone.

    Returns:
        Term(sum over the batch, B, 1); nats.

    Raises:
        UserError: shapes differ or are not [B, D], unknown form, block < 1 or given to "plain"; for "ring": no mesh
            in context, an axis that it lacks, B not divisible by the devices on `axis`.

    Example:
        >>> x = jnp.eye(4)
        >>> round(float(softmax_contrastive(x, x, 2.0).mean), 4)
        0.3408

    Source: Radford et al. 2021 (CLIP), §2.3 and Figure 3.
    """
    img, txt, scale = _checked(img, txt, scale, form, block)
    if form == "plain":
        logits = _all_pairs(scale * img, txt)
        log_p = jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0)
        total = -0.5 * jnp.sum(jnp.where(_diagonal(len(img)), log_p, 0.0))
    else:
        total = _tiled(tiles.SOFTMAX, form, block, axis, scale * img, txt, jnp.zeros(()))
    return Term(total, jnp.asarray(len(img), jnp.float32))


def sigmoid_contrastive(
    img: Float[Array, "_ _"],
    txt: Float[Array, "_ _"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    *,
    form: str = "plain",
    block: int | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """Binary cross-entropy of every pair in a batch: does this text belong to this image?

        L = -1/B Σ_ij log σ(z_ij·(s·x_i·y_j + b)),  z_ii = 1, z_ij = -1 otherwise

    Args:
        img: float[B, D], rows of unit length (not normalised here).
        txt: float[B, D], the same; row i belongs to image i.
        scale: float[], the inverse temperature s, already exponentiated.
        bias: float[], b.
        form, block, axis: as in `softmax_contrastive`.

    Returns:
        Term(sum over all B² pairs, B, 1); nats.

    Raises:
        UserError: as in `softmax_contrastive`.

    Example:
        >>> x = jnp.eye(4)
        >>> round(float(sigmoid_contrastive(x, x, 10.0, -5.0).mean), 4)
        0.0269

    Source: Zhai et al. 2023 (SigLIP), §3.2 and Algorithm 1; ring: §3.3.
    """
    img, txt, scale = _checked(img, txt, scale, form, block)
    bias = jnp.asarray(bias, jnp.float32)
    if form == "plain":
        logits = _all_pairs(scale * img, txt) + bias
        total = jnp.sum(jax.nn.softplus(jnp.where(_diagonal(len(img)), -logits, logits)))
    else:
        total = _tiled(tiles.SIGMOID, form, block, axis, scale * img, txt, bias)
    return Term(total, jnp.asarray(len(img), jnp.float32))


def _checked(img: Array, txt: Array, scale: Array | float, form: str, block: int | None) -> tuple[Array, Array, Array]:
    if img.shape != txt.shape or img.ndim != 2 or not img.shape[0]:
        raise UserError(f"contrastive loss: img {img.shape} and txt {txt.shape} must both be [B, D], B at least 1")
    if form not in FORMS:
        raise UserError(f"contrastive loss: unknown form {form!r}; there are {', '.join(FORMS)}")
    if block is not None and (block < 1 or form == "plain"):
        raise UserError(
            f'contrastive loss: block={block} with form="{form}": a block is at least 1, and only for '
            'the forms "blocked" and "ring"'
        )
    return img.astype(jnp.float32), txt.astype(jnp.float32), jnp.asarray(scale, jnp.float32)


def _all_pairs(rows: Float[Array, "B D"], cols: Float[Array, "B D"]) -> Float[Array, "B B"]:
    # every device computes the rows of its images, for which it needs all texts: one gather of B·D
    return constrain(tiles.products(constrain(rows, "batch", None), constrain(cols, None, None)), "batch", None)


def _diagonal(batch: int) -> Bool[Array, "B B"]:
    # a comparison fuses into its user and keeps the logits' sharding; jnp.diagonal would gather
    return jnp.arange(batch)[:, None] == jnp.arange(batch)[None, :]


def _tiled(
    rule: tiles.Rule, form: str, block: int | None, axis: str | tuple[str, ...], rows: Array, cols: Array, bias: Array
) -> Array:
    ring = tiles.ring_over(axis, rows.shape[0]) if form == "ring" else None
    return tiles.pair_loss(rule, block or tiles.BLOCK, ring, rows, cols, bias)
