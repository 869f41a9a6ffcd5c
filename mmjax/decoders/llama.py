"""LLaMA and its kin, Mistral, Yi, Vicuna: decoders with rotary positions, RMS norms and gated feed-forward layers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.sharding import constrain
from mmjax.nn import masks
from mmjax.nn.cache import Slots
from mmjax.nn.dense import Dense, Embed, normal, normal_init
from mmjax.nn.lora import LoraSpec
from mmjax.nn.norm import RMSNorm
from mmjax.nn.patch import AnyArray
from mmjax.nn.position import RopeScaling, rope
from mmjax.nn.transformer import BlockSpec, Inputs, Transformer


class Llama(nn.Module):
    """Embeddings in, states out; `embed` and `logits` stand before and after, so that other states can go in.

    Parameters: embed/embedding, transformer/block_{i}/{norm1, attn, norm2, mlp}, norm_final, head/kernel (not if tied).

    Attributes:
      vocab, width, depth, heads, mlp_dim: V, D, blocks, N, F.
      kv_heads: key heads K, default N; head_dim: H, default D / N.
      act: of the gate ("silu": SwiGLU).
      eps: of the RMS norms: 1e-6 in LLaMA 1 and early Vicunas, 1e-5 in later ones, Mistral and Yi.
      theta, rope_scaling: of the rotary positions.
      window: a token sees so many, itself included (Mistral 0.1); None: all before it.
      qkv_bias, out_bias, mlp_bias: none in the published LLaMAs.
      tied: the output map is the embedding.
      init_std: of all kernels and the embedding before training.
      lora: adapters of the blocks' maps (nn/lora.py), or None.
      int8: the kernels of the blocks' maps are whole numbers of 8 bits, which cannot train (nn/int8.py).
      scan, remat, attention: see Transformer and BlockSpec.

    Source: Touvron et al. 2023 (LLaMA), §2.2; Jiang et al. 2023 (Mistral 7B), §2; grouped heads: Ainslie et al. 2023.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    kv_heads: int | None = None
    head_dim: int | None = None
    act: str = "silu"
    eps: float = 1e-5
    theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    init_std: float = 0.02
    lora: LoraSpec | None = None
    int8: bool = False
    attention: str = "xla"
    scan: bool = False
    remat: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.embed = Embed(self.vocab, self.width, normal(self.init_std), self.dtype)
        self.transformer = Transformer(self._spec(), self.depth, self.scan, self.remat)
        self.norm_final = RMSNorm(self.eps, self.dtype)
        if not self.tied:
            self.head = Dense(self.vocab, ("embed", "vocab"), False, normal(self.init_std), dtype=self.dtype)

    def __call__(
        self,
        x: Float[AnyArray, "B T D"],
        valid: Bool[AnyArray, "B T"],
        positions: Integer[AnyArray, "B T"] | None = None,
        *,
        sample: Integer[AnyArray, "B T"] | None = None,
        room: int | None = None,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """States after the final norm, each from what stands before it.

        Args:
          x: float[B, T, D], embeddings.
          valid: bool[B, T], True = no padding; padding may stand on either side.
          positions: int[B, T]; default: counted over the valid tokens.
          sample: int[B, T]: number of the sample, where a row holds several; they do not see each other. Their
            `positions` have to be given.
          room: keeps keys and values for rows of so many tokens (nn/cache.py), or of a window's last ones; padding then
            stands on the right.
          train: whether dropout draws (there is none).
        """
        if positions is None:
            positions = jnp.maximum(jnp.cumsum(jnp.asarray(valid, jnp.int32), axis=1) - 1, 0)
        mask = masks.combine(
            masks.causal(x.shape[1], self.window),
            masks.padding(jnp.asarray(valid)),
            None if sample is None else masks.segments(jnp.asarray(sample)),
        )
        slots = None
        if room is not None:  # of a window's rows, more than the window is never looked at again
            size = room if self.window is None else min(room, self.window)
            slots = Slots(length=jnp.sum(jnp.asarray(valid, jnp.int32), axis=1), size=size)
        return self._run(x, Inputs(mask=mask, rope=self._rope(positions), slots=slots), train)

    def step(self, x: Float[Array, "B T D"], filled: Integer[Array, "B"]) -> Float[Array, "B T D"]:
        """States of tokens that go to the slots from `filled` on, after those that are kept."""
        slots = Slots(start=filled, window=self.window)
        return self._run(x, Inputs(rope=self._rope(slots.positions(x.shape[1])), slots=slots), False)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Logits of the next token from states, float32."""
        return (self.embed.attend(x) if self.tied else self.head(x)).astype(jnp.float32)

    def table(self) -> Float[Array, "V D"]:
        """What `logits` multiplies states with: for a loss that takes them a part at a time. Not while initialising."""
        if self.tied:
            return jnp.asarray(self.embed.embedding, self.dtype)
        return jnp.asarray(self.head.variables["params"]["kernel"], self.dtype).T

    def _run(self, x: Any, inputs: Inputs, train: bool) -> Array:
        x = constrain(jnp.asarray(x, self.dtype), "batch", None, None)
        return self.norm_final(self.transformer(x, inputs, train=train))

    def _rope(self, positions: Any) -> Any:
        return rope(jnp.asarray(positions), self.head_dim or self.width // self.heads, self.theta, self.rope_scaling)

    def _spec(self) -> BlockSpec:
        return BlockSpec(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            act=self.act,
            eps=self.eps,
            norm="rms",
            q_bias=self.qkv_bias,
            k_bias=self.qkv_bias,
            v_bias=self.qkv_bias,
            out_bias=self.out_bias,
            mlp_bias=self.mlp_bias,
            gated=True,
            attention=self.attention,
            inits=normal_init(self.init_std),
            dtype=self.dtype,
            lora=self.lora,
            int8=self.int8,
        )


def _size(width: int, depth: int, heads: int, mlp_dim: int, vocab: int = 32_000, **other: Any) -> dict[str, Any]:
    return {"vocab": vocab, "width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim, **other}


SIZES: dict[str, dict[str, Any]] = {
    "llama_7b": _size(4096, 32, 32, 11_008, eps=1e-6),
    "llama_13b": _size(5120, 40, 40, 13_824, eps=1e-6),
    "llama_30b": _size(6656, 60, 52, 17_920, eps=1e-6),
    "vicuna_7b": _size(4096, 32, 32, 11_008),  # 1.5, from Llama 2
    "vicuna_13b": _size(5120, 40, 40, 13_824),
    "mistral_7b": _size(4096, 32, 32, 14_336, kv_heads=8, window=4096),  # 0.1
    "mistral_7b_v02": _size(4096, 32, 32, 14_336, kv_heads=8, theta=1e6),
    "yi_6b": _size(4096, 32, 32, 11_008, 64_000, kv_heads=4, theta=5e6),
    "yi_34b": _size(7168, 60, 56, 20_480, 64_000, kv_heads=8, theta=5e6),
    "llama3_8b": _size(4096, 32, 32, 14_336, 128_256, kv_heads=8, theta=5e5),
    "smollm2_135m": _size(576, 30, 9, 1_536, 49_152, kv_heads=3, theta=1e5, tied=True),
}
"""The published models. Vicuna 1.1 and 1.3 are LLaMA 1, with its epsilon."""
