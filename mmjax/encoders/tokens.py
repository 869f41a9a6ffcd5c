"""Images and words as tokens of one sequence (BEiT, VLMo, BEiT-3)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.nn.dense import Embed, Initializer, normal
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import AnyArray, PatchEmbed

UNUSED = 2  # rows of BEiT-3's tables of positions: the library of the released code counts from 2


class ImageTokens(nn.Module):
    """`[cls, patches] + positions`, float[B, Y, X, C] -> float[B, 1 + P, D].

    Parameters: `patch`, `cls` [D], `pos` [unused + 1 + P, D], `mask` [D].

    Attributes:
      image_size, patch: pixels.
      positions: whether a learned one is added to each token; unused: rows of the table before the class token's, which
        nobody reads (2 in BEiT-3, whose library counts positions from 2).
      maskable: whether there is a token that takes the place of masked patches.

    Source: Bao et al. 2021 (BEiT), §2.2 and §2.3.
    """

    image_size: int
    patch: int
    width: int
    positions: bool = True
    unused: int = 0
    maskable: bool = False
    init: Initializer = normal(0.02)
    dtype: DTypeLike = jnp.float32

    @property
    def patches(self) -> int:
        """P, patches of an image."""
        return (self.image_size // self.patch) ** 2

    @nn.compact
    def __call__(
        self, image: Float[Array, "B Y X C"], masked: Bool[Array, "B P"] | None = None
    ) -> Float[Array, "B T D"]:
        """Embeds normalised images; `masked` patches are replaced by the mask token.

        Raises:
          UserError: images of another size, or masked patches without `maskable`.
        """
        size, D = self.image_size, self.width
        if image.shape[1:3] != (size, size):
            raise UserError(f"images are {image.shape[1]}x{image.shape[2]}, but the system reads {size}x{size}")
        embed = PatchEmbed(self.patch, D, use_bias=True, kernel_init=self.init, dtype=self.dtype, name="patch")
        x = embed(image)
        if self.maskable:
            mask = self.param("mask", self.init, (D,), jnp.float32).astype(self.dtype)[None, None]
            x = x if masked is None else jnp.where(masked[:, :, None], mask, x)
        elif masked is not None:
            raise UserError("image tokens: masked patches, but the system has no mask token; its tasks need none")
        cls = self.param("cls", self.init, (D,), jnp.float32).astype(self.dtype)[None, None]
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, D)), x], axis=1)
        if self.positions:
            rows = self.unused + 1 + self.patches
            pos = self.param("pos", self.init, (rows, D), jnp.float32).astype(self.dtype)
            x = x + pos[None, self.unused :]
        return constrain(x, "batch", None, None)


class TextTokens(nn.Module):
    """BERT's embeddings, int[B, T] -> float[B, T, D]: words, one token type, positions if they are absolute, a norm.

    The table of positions is there in either case, as in the published models.
    """

    vocab: int
    length: int
    width: int
    positions: bool
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Integer[AnyArray, "B T"], *, train: bool = False) -> Float[Array, "B T D"]:
        if ids.shape[1] > self.length:
            raise UserError(f"texts of {ids.shape[1]} tokens, but the system has {self.length} positions")
        pos = self.param("pos", normal(0.02), (self.length, self.width), jnp.float32)
        types = self.param("types", normal(0.02), (2, self.width), jnp.float32)
        x = Embed(self.vocab, self.width, normal(0.02), self.dtype, name="embed")(jnp.asarray(ids))
        x = x + types[None, :1].astype(self.dtype)
        if self.positions:
            x = x + pos[None, : ids.shape[1]].astype(self.dtype)
        x = LayerNorm(1e-12, self.dtype, name="norm")(x)
        return nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)


class WordTokens(nn.Module):
    """BEiT-3's: words and positions, int[B, T] -> float[B, T, D]; padding is zero.

    `places` int[B, T]: of the words in their texts, where they do not begin with the first.
    """

    vocab: int
    length: int
    width: int
    init: Initializer = normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Integer[Array, "B T"], valid: Bool[Array, "B T"], places: Integer[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        if ids.shape[1] > self.length:
            raise UserError(f"texts of {ids.shape[1]} tokens, but the system has {self.length} positions")
        pos = self.param("pos", self.init, (UNUSED + self.length, self.width), jnp.float32).astype(self.dtype)
        x = Embed(self.vocab, self.width, self.init, self.dtype, name="embed")(ids)
        rows = pos[None, UNUSED : UNUSED + ids.shape[1]] if places is None else pos[UNUSED + places]
        return (x + rows) * valid[:, :, None].astype(self.dtype)
