"""ALBEF's text assignment: pre-training for NLVR2, between ALBEF's own and the fine-tuning (Li et al. 2021, §4)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.types import Batch, Term
from mmjax.encoders.bert import Bert
from mmjax.losses.mlm import token_losses
from mmjax.losses.negatives import draw_two, take_rows
from mmjax.nn.dense import Dense, torch_uniform
from mmjax.nn.patch import normalise
from mmjax.systems import base
from mmjax.systems.blip import unit
from mmjax.systems.clip import MEAN, STD

FIRST, SECOND, NEITHER = range(3)


class Assignment(NamedTuple):
    """Two images for each text: rows of the global batch, and to which of them the text belongs.

    Attributes:
      first, second: int32[B]; label: int32[B], FIRST, SECOND or NEITHER.
      counts: bool[B], whether the batch has as many wrong images as the label needs.
    """

    first: Integer[Array, "B"]
    second: Integer[Array, "B"]
    label: Integer[Array, "B"]
    counts: Bool[Array, "B"]


class ALBEFAssign(nn.Module):
    """Given a text and two images: does it belong to the first, to the second, or to neither?

    Each with probability 1/3. Wrong images are drawn from the batch, the likelier the more they look like the text's
    own by the contrastive features of the pre-trained model, which this training does not change.

    Attributes:
      img: a ViT; txt: the layers of BERT below the cross-attention; twin: the pairs of layers above (albef_tasks.Twin).
      embed_dim: width E of the contrastive features; temperature: by which their similarities are divided.
      mean, std: see ALBEF.
    """

    img: nn.Module
    txt: Bert
    twin: nn.Module
    embed_dim: int = 256
    temperature: float = 0.07
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.img_proj, self.assign_head = (
            Dense(features, ("embed", None), True, torch_uniform, dtype=self.dtype) for features in (self.embed_dim, 3)
        )

    def similarities(self, tokens: Float[Array, "B P E"]) -> Float[Array, "B B"]:
        """Of the images with each other, scaled; without gradient."""
        features = unit(self.img_proj(lax.stop_gradient(tokens[:, 0])))
        return lax.stop_gradient(features @ features.T) / self.temperature

    def states(
        self, tokens: Float[Array, "B P E"], batch: Batch, pair: Assignment, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """Each text after it has looked at its two images."""
        images = jnp.stack([take_rows(tokens, rows) for rows in (pair.first, pair.second)], axis=1)  # [B, 2, P, E]
        x = self.txt.encode(batch["ids"], batch["valid"], train=train)
        return self.twin(x, batch["valid"], images, train=train)

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Cross-entropy of the assignment, in nats; the batch: image, ids, valid, and where it has image_id, no picture
        is wrong for a text of its own number."""
        tokens = self.img(normalise(batch["image"], self.mean, self.std), train=train).tokens
        ids = jnp.asarray(batch["image_id"]) if "image_id" in batch else None
        pair = assign(base.stream_key(self, "negatives"), self.similarities(tokens), ids)
        return {"assign": self.assignment(tokens, batch, pair, train=train)[0]}

    def assignment(
        self, tokens: Float[Array, "B P E"], batch: Batch, pair: Assignment, *, train: bool = False
    ) -> tuple[Term, Float[Array, "B 3"]]:
        """(the loss of assignments that were drawn, logits)."""
        logits = self.assign_head(self.states(tokens, batch, pair, train=train)[:, 0]).astype(jnp.float32)
        each, counts = token_losses(logits[:, None], pair.label[:, None])[:, 0], pair.counts.astype(jnp.float32)
        return Term((each * counts).sum(), counts.sum()), logits

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text."""
        return base.example(rows, self.img.image_size, length or self.txt.length)


def assign(key: jax.Array, logits: Float[Array, "B B"], ids: Integer[Array, "B"] | None = None) -> Assignment:
    """Draws labels, and wrong images by their likeness.

    Args:
      key: of the draw.
      logits: float[B, B], scaled similarities of the images with each other.
      ids: int[B], images of equal number are not wrong for each other's texts.
    """
    wrong, there = draw_two(jax.random.fold_in(key, 0), logits, ids)
    own = jnp.arange(len(logits), dtype=jnp.int32)
    label = jax.random.randint(jax.random.fold_in(key, 1), own.shape, 0, 3, jnp.int32)
    first = jnp.where(label == FIRST, own, wrong[:, 0])
    second = jnp.where(label == SECOND, own, jnp.where(label == FIRST, wrong[:, 0], wrong[:, 1]))
    return Assignment(first, second, label, jnp.where(label == NEITHER, there[:, 1], there[:, 0]))
