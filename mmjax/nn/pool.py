"""Attention from learned queries: any number of tokens in, a fixed number out."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from mmjax.core.sharding import constrain
from mmjax.nn import masks
from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.dense import BlockInit, normal, torch_init
from mmjax.nn.norm import LayerNorm


class AttentionalPooler(nn.Module):
    """`norm_out(attend(norm_q(query), norm_kv(x)))`, float[B, S, D] -> float[B, Q, E].

    One layer of cross-attention from Q learned queries, without a residual path or an MLP (SigLIP's head, which has
    both and no norms, is `AttentionPool` of encoders/vit.py). Many queries make tokens for a decoder, a single one a
    feature for a contrastive loss or a classifier.

    Attributes:
      queries: Q; width: E; heads: they divide E.
      eps, eps_out: of the layer norms of queries and tokens, and of the one over the result; None: there is none.

    Source: Yu et al. 2022 (CoCa), §3.2; Lee et al. 2019 (Set Transformer).
    """

    queries: int
    width: int
    heads: int
    eps: float
    eps_out: float | None
    attention: str = "xla"
    inits: BlockInit = torch_init()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], valid: Bool[Array, "B S"] | None = None, *, train: bool = False
    ) -> Float[Array, "B Q E"]:
        """Pools the tokens; no query sees those that are not valid (None: all are)."""
        query = self.param("query", normal(1.0), (self.queries, self.width), jnp.float32).astype(self.dtype)
        query = LayerNorm(self.eps, self.dtype, name="norm_q")(query)
        query = constrain(jnp.broadcast_to(query[None], (len(x), self.queries, self.width)), "batch", None, None)
        x = LayerNorm(self.eps, self.dtype, name="norm_kv")(x)
        attn = MultiHeadAttention(self.heads, inits=self.inits, dtype=self.dtype, kernel=self.attention, name="attn")
        x = attn(query, x, mask=None if valid is None else masks.padding(valid), train=train)
        return x if self.eps_out is None else LayerNorm(self.eps_out, self.dtype, name="norm_out")(x)
