"""The upper half of CoCa's text decoder: causal, with cross-attention to image tokens, up to the logits of words."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.nn import masks
from mmjax.nn.cache import Slots
from mmjax.nn.dense import BlockInit, Dense, clip_text_init, normal
from mmjax.nn.norm import LayerNorm
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer


class MultimodalDecoder(nn.Module):
    """float[B, T, D], float[B, S, E] -> states float[B, T, D]; `logits` takes them to float[B, T, V].

    The lower half, causal without cross-attention, is `encoders.text.TextTransformer`; padding behind a text is hidden
    by the causal mask. The map to the words is not tied to the embedding of the lower half.

    Attributes:
      vocab: V; width: D.
      mlp_dim: default 4·width.
      mlps: MLPs of a layer: 1 (the paper: self-attention, cross-attention, MLP), or 2 (open_clip: a block of
        self-attention and MLP, then one of cross-attention and MLP that norms the image tokens, too).
      inits: of the blocks, default CLIP's.

    Source: Yu et al. 2022 (CoCa), §3.2 and Table 1.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    act: str = "gelu"
    eps: float = 1e-5
    mlps: int = 1
    layer_scale: float | None = None
    dropout: float = 0.0
    attention: str = "xla"
    scan: bool = False
    remat: str | None = None
    inits: BlockInit | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        spec = BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            cross=True,
            norm_context=self.mlps == 2,
            mid_mlp=self.mlps == 2,
            layer_scale=self.layer_scale,
            dropout=self.dropout,
            attention=self.attention,
            inits=self.inits or clip_text_init(self.width, self.depth),
            dtype=self.dtype,
        )
        self.transformer = Transformer(spec, self.depth, self.scan, self.remat)
        self.norm_final = LayerNorm(self.eps, self.dtype)
        self.head = Dense(self.vocab, ("embed", "vocab"), False, normal(self.width**-0.5), dtype=self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S E"] | None,
        *,
        slots: Slots | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """States after the final norm, each of which has seen the text up to its place and the whole image.

        Args:
          x: states of the lower half.
          context: image tokens; None where slots are read.
          slots: where keys and values are kept for later calls (nn/cache.py).
          train: whether dropout draws.
        """
        reads = slots is not None and slots.reads
        inputs = Inputs(mask=None if reads else masks.causal(x.shape[1]), context=context, slots=slots)
        return self.norm_final(self.transformer(x, inputs, train=train))

    def logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of the next word after each place, float32[B, T, V]."""
        return self.head(states).astype(jnp.float32)
