"""Text transformers: CLIP's, causal and read at the end token; SigLIP's, which sees and reads everything; CoCa's,
causal and read at a class token behind the text."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Integer

from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded
from mmjax.core.sharding import constrain
from mmjax.nn import masks
from mmjax.nn.cache import Slots
from mmjax.nn.dense import BlockInit, Embed, clip_text_init, normal
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import AnyArray
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer

POOLS = ("end", "last", "cls")


@struct.dataclass
class TextOutput:
    """tokens float[B, T, D]; pooled float[B, D], the state at the end token, the last one or the class token.

    Both after the final norm, but with pool "cls" only `pooled`: a decoder goes on from the states as they are.
    """

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
        to `length`, and padded to another length they give something else) or "cls" (CoCa: a learned token behind the
        text, which has the last row of a position table of length + 1, however short the texts are; implies
        mask_padding).
      cls_shift: keys hide padding one place too late, so that the class token sees the first padded place and itself
        only behind a text without padding. A slip in open_clip with which its CoCa checkpoints were trained.
      layer_scale: see BlockSpec.
      attention: kernel of the blocks' attention (see BlockSpec).
      inits: of the blocks, default CLIP's.

    Source: Radford et al. 2021 (CLIP), §2.4; Zhai et al. 2023 (SigLIP); Yu et al. 2022 (CoCa), §3.2.
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
    cls_shift: bool = False
    layer_scale: float | None = None
    attention: str = "xla"
    scan: bool = False
    remat: str | None = None
    inits: BlockInit | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Integer[AnyArray, "B T"],
        valid: Bool[AnyArray, "B T"] | None,
        *,
        slots: Slots | None = None,
        train: bool = False,
    ) -> TextOutput:
        """Encodes token ids, padded at the end.

        Args:
          ids: int32[B, T].
          valid: True = a real token; None where slots are read.
          slots: for writing on: where keys and values are kept for later calls (nn/cache.py). The states of the tokens
            alone are made: no token sees the class token behind it, and there is no end yet (`pooled` is None).
          train: whether dropout draws.

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
        has_cls = self.pool == "cls"
        embed = Embed(self.vocab, self.width, normal(0.02), self.dtype, name="embed")
        rows = self.length + int(has_cls)
        pos = self.param("pos", normal(0.01), (rows, self.width), jnp.float32).astype(self.dtype)
        places = pos[None, : ids.shape[1]] if slots is None else pos[slots.positions(ids.shape[1])]
        x = constrain(embed(jnp.asarray(ids)) + places, "batch", None, None)
        if has_cls and slots is None:
            cls = self.param("cls", normal(0.01), (self.width,), jnp.float32).astype(self.dtype) + pos[-1]
            x = jnp.concatenate([x, jnp.broadcast_to(cls[None, None], (len(x), 1, self.width))], axis=1)
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        spec = BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            dropout=self.dropout,
            layer_scale=self.layer_scale,
            attention=self.attention,
            inits=self.inits or clip_text_init(self.width, self.depth),
            dtype=self.dtype,
        )
        stack = Transformer(spec, self.depth, self.scan, self.remat, name="transformer")
        if slots is not None:
            if not self.causal:
                raise UserError("text encoder: a text of which every token sees all others cannot be written on")
            mask = None if slots.reads else masks.causal(ids.shape[1])
            return TextOutput(stack(x, Inputs(mask=mask, slots=slots), train=train), None)
        assert valid is not None
        valid = jnp.asarray(valid)
        x = stack(x, Inputs(mask=self._seen(valid)), train=train)
        norm = LayerNorm(self.eps, self.dtype, name="norm_final")
        if has_cls:
            return TextOutput(constrain(x[:, :-1], "batch", None, None), constrain(norm(x[:, -1]), "batch", None))
        x = norm(x)
        if self.pool == "last":
            return TextOutput(x, constrain(x[:, -1], "batch", None))
        end = valid.sum(axis=1, dtype=jnp.int32) - 1  # [B]
        return TextOutput(x, constrain(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0], "batch", None))

    def _seen(self, valid: Bool[Array, "B T"]) -> Bool[Array, "#B 1 #S S"] | None:
        """The mask of self-attention; with a class token S = T + 1."""
        keys = valid
        if self.pool == "cls":
            own = jnp.ones_like(valid[:, :1])
            keys = jnp.concatenate([own, valid] if self.cls_shift else [valid, own], axis=1)
        return masks.combine(
            masks.causal(keys.shape[1]) if self.causal else None,
            masks.padding(keys) if self.mask_padding or self.pool == "cls" else None,
        )
