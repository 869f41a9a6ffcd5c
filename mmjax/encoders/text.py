"""CLIP's text encoder: a causal transformer read at the end token."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Bool, Integer

from mmjax.core.errors import UserError
from mmjax.nn import masks
from mmjax.nn.dense import BlockInit, clip_text_init, constrain, normal, partitioned
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import AnyArray
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer


@struct.dataclass
class TextOutput:
    """tokens float[B, T, D] after the final norm; pooled float[B, D], the state at the end token."""

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    tokens: Any
    pooled: Any


class TextTransformer(nn.Module):
    """int[B, T], bool[B, T] -> TextOutput.

    The end token is the last valid position; padding follows it, so that the causal mask alone hides it.

    Attributes:
      vocab: V; length: of the position table; T may be shorter.
      mlp_dim: default 4·width.
      inits: of the blocks, default CLIP's.

    Source: Radford et al. 2021 (CLIP), §2.4.
    """

    vocab: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    act: str = "quick_gelu"
    eps: float = 1e-5
    dropout: float = 0.0
    scan: bool = False
    remat: str | None = None
    inits: BlockInit | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> TextOutput:
        """Encodes token ids, padded at the end.

        Raises:
          UserError: more tokens than positions.
        """
        if ids.shape[1] > self.length:
            raise UserError(f"texts of {ids.shape[1]} tokens, but the text encoder has {self.length} positions")
        table = partitioned(normal(0.02), "vocab", "embed")
        embed = nn.Embed(self.vocab, self.width, self.dtype, embedding_init=table, name="embed")
        pos = self.param("pos", normal(0.01), (self.length, self.width), jnp.float32).astype(self.dtype)
        x = constrain(embed(ids) + pos[None, : ids.shape[1]], "batch", None, None)
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        spec = BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            dropout=self.dropout,
            inits=self.inits or clip_text_init(self.width, self.depth),
            dtype=self.dtype,
        )
        stack = Transformer(spec, self.depth, self.scan, self.remat, name="transformer")
        x = stack(x, Inputs(mask=masks.causal(ids.shape[1])), train=train)
        x = LayerNorm(self.eps, self.dtype, name="norm_final")(x)
        end = jnp.asarray(valid).sum(axis=1, dtype=jnp.int32) - 1  # [B]
        return TextOutput(x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0])
