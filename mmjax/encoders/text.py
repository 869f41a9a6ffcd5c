"""CLIP's text encoder, a causal transformer read at the end token, and SigLIP's, which sees and reads everything."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Bool, Integer

from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded
from mmjax.core.sharding import constrain
from mmjax.nn import masks
from mmjax.nn.dense import BlockInit, Embed, clip_text_init, normal
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import AnyArray
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer

POOLS = ("end", "last")


@struct.dataclass
class TextOutput:
    """tokens float[B, T, D] after the final norm; pooled float[B, D], the state at the end token or the last one."""

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    tokens: Any
    pooled: Any


class TextTransformer(nn.Module):
    """int[B, T], bool[B, T] -> TextOutput.

    The end token is the last valid position; padding follows it, so that the causal mask alone hides it.

    Attributes:
      vocab: V; length: of the position table; T may be shorter.
      mlp_dim: default 4·width.
      causal: a token sees those before it alone; without, every token sees all, padding included (SigLIP).
      mask_padding: no token sees padding.
      pool: "end" (the end token) or "last" (the last position, which may be padding: SigLIP reads texts that are padded
        to `length`, and padded to another length they give something else).
      attention: kernel of the blocks' attention (see BlockSpec).
      inits: of the blocks, default CLIP's.

    Source: Radford et al. 2021 (CLIP), §2.4; Zhai et al. 2023 (SigLIP).
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
    causal: bool = True
    mask_padding: bool = False
    pool: str = "end"
    attention: str = "xla"
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
          UserError: more tokens than positions, a pool that does not exist, or (for arrays of the host, whose values
            are known here) a row that is not padded at its end.
        """
        if isinstance(valid, np.ndarray):
            check_right_padded(valid, "text encoder")
        if self.pool not in POOLS:
            raise UserError(f"text encoder: pool {self.pool!r} is one of {POOLS}")
        if ids.shape[1] > self.length:
            raise UserError(f"texts of {ids.shape[1]} tokens, but the text encoder has {self.length} positions")
        embed = Embed(self.vocab, self.width, normal(0.02), self.dtype, name="embed")
        pos = self.param("pos", normal(0.01), (self.length, self.width), jnp.float32).astype(self.dtype)
        x = constrain(embed(jnp.asarray(ids)) + pos[None, : ids.shape[1]], "batch", None, None)
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        spec = BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            dropout=self.dropout,
            attention=self.attention,
            inits=self.inits or clip_text_init(self.width, self.depth),
            dtype=self.dtype,
        )
        stack = Transformer(spec, self.depth, self.scan, self.remat, name="transformer")
        seen = masks.combine(
            masks.causal(ids.shape[1]) if self.causal else None,
            masks.padding(jnp.asarray(valid)) if self.mask_padding else None,
        )
        x = stack(x, Inputs(mask=seen), train=train)
        x = LayerNorm(self.eps, self.dtype, name="norm_final")(x)
        if self.pool == "last":
            return TextOutput(x, constrain(x[:, -1], "batch", None))
        end = jnp.asarray(valid).sum(axis=1, dtype=jnp.int32) - 1  # [B]
        return TextOutput(x, constrain(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0], "batch", None))
