"""BERT (Devlin et al. 2019), with cross-attention to an image in its upper layers, as ALBEF and BLIP use it."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.nn import masks
from mmjax.nn.cache import Slots
from mmjax.nn.dense import BlockInit, Dense, Embed, normal, normal_init, zeros
from mmjax.nn.mlp import activation
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import AnyArray
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer


class Bert(nn.Module):
    """Post-norm layers over token ids; those from `cross_from` on can also attend to a context.

    The same parameters read in both directions or causally, from ids (`encode`, or all layers: `__call__`) or from the
    states of the lower layers (`fuse`). Parameters: `text/block_i` (layers without cross-attention), `fusion/block_i`
    (those with it, counted from 0 again), `embed`, `pos`, `types`, `norm`, `head`, `head_bias`.

    Attributes:
      vocab: V; length: of the position table; T may be shorter.
      mlp_dim: default 4·width.
      types: rows of the table of token types, the first of which is added to every token; 0: no table (BLIP).
      cross_from: first layer with cross-attention (`cross`, `norm_cross`), between self-attention and MLP; None: no
        layer has it. A context's width E need not be D. Without a context the sub-layer is left out.
      lm_head: a head for words, `logits`: dense, activation, norm, the tied token embedding, a bias.
      dropout: after the embeddings' norm and of the branches; attn_dropout: of the attention weights.
      attention, scan, remat: see nn/transformer.py.

    Source: Devlin et al. 2019, §3; Li et al. 2021 (ALBEF), §3.1; Li et al. 2022 (BLIP), §3.1.
    """

    vocab: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    act: str = "gelu"
    eps: float = 1e-12
    types: int = 2
    cross_from: int | None = None
    lm_head: bool = False
    dropout: float = 0.0
    attn_dropout: float = 0.0
    attention: str = "xla"
    scan: bool = False
    remat: str | None = None
    inits: BlockInit = normal_init()
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        plain = self.depth if self.cross_from is None else self.cross_from
        if not 0 <= plain <= self.depth:
            raise UserError(f"BERT: cross_from={self.cross_from} is not from 0 to the depth, {self.depth}")
        self.embed = Embed(self.vocab, self.width, normal(0.02), self.dtype)
        self.pos = self.param("pos", normal(0.02), (self.length, self.width), jnp.float32)
        if self.types:
            self.type_table = self.param("types", normal(0.02), (self.types, self.width), jnp.float32)
        self.norm = LayerNorm(self.eps, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        if plain:
            self.text = Transformer(self.block(False), plain, self.scan, self.remat)
        if plain < self.depth:
            self.fusion = Transformer(self.block(True), self.depth - plain, self.scan, self.remat)
        if self.lm_head:
            self.head = WordTransform(self.width, self.act, self.eps, self.dtype)
            self.head_bias = self.param("head_bias", zeros, (self.vocab,), jnp.float32)

    def block(self, cross: bool) -> BlockSpec:
        """What a layer is made of."""
        return BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            order="post",
            cross=cross,
            dropout=self.dropout,
            attn_dropout=self.attn_dropout,
            mlp_dropout=0.0,
            attention=self.attention,
            inits=self.inits,
            dtype=self.dtype,
        )

    def embed_ids(
        self, ids: Integer[AnyArray, "B T"], positions: Integer[Array, "#B T"] | None = None, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """`norm(word + type + position)`; positions count from 0 unless told.

        Raises:
          UserError: more tokens than positions.
        """
        if positions is None and ids.shape[1] > self.length:
            raise UserError(f"texts of {ids.shape[1]} tokens, but BERT has {self.length} positions")
        pos = self.pos[None, : ids.shape[1]] if positions is None else self.pos[positions]
        x = self.embed(jnp.asarray(ids)) + pos.astype(self.dtype)
        if self.types:
            x = x + self.type_table[None, :1].astype(self.dtype)
        return self.drop(constrain(self.norm(x), "batch", None, None), deterministic=not train)

    def encode(
        self,
        ids: Integer[AnyArray, "B T"],
        valid: Bool[AnyArray, "B T"] | None,
        *,
        causal: bool = False,
        mode: str = "",
        slots: Slots | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """The layers below `cross_from`, from ids; states of padding have no meaning. Arguments as in `fuse`."""
        if slots is not None and (slots.size or 0) > self.length:
            raise UserError(f"texts of up to {slots.size} tokens, but BERT has {self.length} positions")
        x = self.embed_ids(ids, None if slots is None else slots.positions(ids.shape[1]), train=train)
        inputs = Inputs(mask=self_mask(valid, causal, slots), slots=slots, mode=mode)
        return self.text(x, inputs, train=train) if self._plain() else x

    def fuse(
        self,
        x: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"] | None,
        context: Float[Array, "B S E"] | None,
        context_valid: Bool[AnyArray, "B S"] | None = None,
        *,
        causal: bool = False,
        mode: str = "",
        slots: Slots | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """The layers from `cross_from` on, from the states of those below.

        Args:
          x: states.
          valid: True = a real token.
          context: what is attended to; None: nothing, and the cross-attention is left out.
          context_valid: which of it may be seen; default: all.
          causal: a token sees those before it alone.
          mode: see `nn.transformer.Inputs`.
          slots: where keys and values are kept for later calls, and the context's; where they are read, `valid` and the
            context are None, and tokens see those before them.
          train: whether dropout draws.
        """
        seen = None if context_valid is None else masks.padding(jnp.asarray(context_valid))
        inputs = Inputs(
            mask=self_mask(valid, causal, slots), context=context, context_mask=seen, mode=mode, slots=slots
        )
        return self.fusion(x, inputs, train=train)

    def __call__(
        self,
        ids: Integer[AnyArray, "B T"],
        valid: Bool[AnyArray, "B T"] | None,
        context: Float[Array, "B S E"] | None = None,
        context_valid: Bool[AnyArray, "B S"] | None = None,
        *,
        causal: bool = False,
        mode: str = "",
        slots: Slots | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """All layers, from ids; arguments as in `fuse`."""
        x = self.encode(ids, valid, causal=causal, mode=mode, slots=slots, train=train)
        if self._plain() == self.depth:
            return x
        return self.fuse(x, valid, context, context_valid, causal=causal, mode=mode, slots=slots, train=train)

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Of the words, from the last layer's states: float32; the output map is the token embedding."""
        return self.embed.attend(self.head(x)).astype(jnp.float32) + self.head_bias[None, None]

    def _plain(self) -> int:
        return self.depth if self.cross_from is None else self.cross_from


class WordTransform(nn.Module):
    """What precedes the output map of a masked language model, `norm(act(dense x))`; float[B, T, D] -> the same."""

    width: int
    act: str
    eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        x = Dense(self.width, ("embed", None), True, normal(0.02), dtype=self.dtype, name="dense")(x)
        return LayerNorm(self.eps, self.dtype, name="norm")(activation(self.act)(x))


def self_mask(
    valid: Bool[AnyArray, "B T"] | None, causal: bool, slots: Slots | None = None
) -> Bool[Array, "B 1 #T T"] | None:
    """No token sees padding; with `causal` none sees those behind it either. None where a cache is read."""
    if slots is not None and slots.reads:
        return None
    if valid is None:
        raise UserError("BERT: valid is None; it says which tokens are padding, unless a cache is read")
    seen = masks.padding(jnp.asarray(valid))
    return seen & masks.causal(valid.shape[1]) if causal else seen
