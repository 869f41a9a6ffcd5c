"""Multi-head attention over one or two sequences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.nn.cache import CACHE, CONTEXT, Slots, begun, seen, written
from mmjax.nn.dense import BlockInit, Dense, Initializer, normal, normal_init
from mmjax.nn.int8 import Int8Dense
from mmjax.nn.lora import Lora, LoraSpec
from mmjax.nn.norm import LayerNorm
from mmjax.nn.position import Rope, rotate
from mmjax.nn.segments import Segments, by_segment

KERNELS = ("xla", "cudnn")


@jax.custom_vjp
def softmax(scores: Float[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    """Over the last axis. The gradient is `p (g - Σ g p)`, from the result alone: jax.nn's keeps exponentials, too."""
    return jax.nn.softmax(scores, axis=-1)


def _softmax(scores: Array) -> tuple[Array, Array]:
    p = softmax(scores)
    return p, p


def _softmax_back(p: Array, g: Array) -> tuple[Array]:
    return (p * (g - (g * p).sum(-1, keepdims=True)),)


softmax.defvjp(_softmax, _softmax_back)


@jax.custom_vjp
def _scores(q: Float[Array, "B K M H"], k: Float[Array, "B K S H"]) -> Float[Array, "B K M S"]:
    """`q kᵀ`, float32."""
    return _dot(q, k, 3, 3, jnp.float32)


def _scores_kept(q: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    return _scores(q, k), (q, k)


def _scores_back(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    q, k = kept
    return _dot(g, k, 3, 2, jnp.float32).astype(q.dtype), _left(g, q).astype(k.dtype)


_scores.defvjp(_scores_kept, _scores_back)


@jax.custom_vjp
def _mixed(p: Float[Array, "B K M S"], v: Float[Array, "B K S H"]) -> Float[Array, "B K M H"]:
    """`p v`."""
    return _dot(p, v, 3, 2)


def _mixed_kept(p: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mixed(p, v), (p, v)


def _mixed_back(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    p, v = kept
    return _dot(g, v, 3, 3), _left(p, g)


_mixed.defvjp(_mixed_kept, _mixed_back)


def _left(p: Float[Array, "B K M S"], x: Float[Array, "B K M H"]) -> Float[Array, "B K S H"]:
    """`pᵀ x`. As in `dense.product`: on CPUs one operand is transposed beforehand, the one that is cheaper to turn."""
    dtype, barrier = jnp.promote_types(p.dtype, x.dtype), jax.lax.optimization_barrier

    def transposed(p: Array, x: Array) -> Array:
        if p.shape[3] <= 2 * x.shape[3]:
            return _dot(barrier(p.swapaxes(2, 3)), x, 3, 2, dtype)
        return _dot(barrier(x.swapaxes(2, 3)), p, 3, 2, dtype).swapaxes(2, 3)

    return jax.lax.platform_dependent(p, x, cpu=transposed, default=lambda p, x: _dot(p, x, 2, 2, dtype))


def _dot(x: Array, y: Array, left: int, right: int, dtype: DTypeLike | None = None) -> Array:
    return jax.lax.dot_general(x, y, (((left,), (right,)), ((0, 1), (0, 1))), preferred_element_type=dtype)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    scale: float,
    bias: Float[Array, "#B #N #T S"] | None = None,
    mask: Bool[Array, "#B #N #T S"] | None = None,
    drop: nn.Dropout | None = None,
    kernel: str = "xla",
) -> Float[Array, "B T N H"]:
    """`softmax(scale · q·k + bias) v`; N query heads share K key heads in order (head n uses n // (N/K)).

    Scores and softmax are float32. A query whose keys are all masked attends to all of them evenly, no NaN.

    Args:
      q, k, v: float[B, T, N, H], float[B, S, K, H], float[B, S, K, H]; K divides N.
      scale: factor of the scores, H^-½ in most models.
      bias: float[B or 1, N or 1, T or 1, S], added to the scores.
      mask: bool, the same shape; True = attend.
      drop: dropout on the attention weights.
      kernel: "xla" (the operations below), or "cudnn", NVIDIA's fused attention: its memory does not grow with T·S. It
        needs a GPU, 16-bit inputs and no dropout.

    Raises:
      UserError: a kernel that does not exist, or cannot do this.

    Source: Vaswani et al. 2017, §3.2.1; grouped heads: Ainslie et al. 2023.
    """
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    if kernel == "cudnn":
        if drop is not None or q.dtype == jnp.float32:
            raise UserError(f"attention: the kernel 'cudnn' has no dropout and takes no {q.dtype}; use 'xla'")
        bias = None if bias is None else bias.astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation="cudnn")
    if kernel not in KERNELS:
        raise UserError(f"attention: kernel {kernel!r} does not exist; there are {', '.join(KERNELS)}")
    # Heads before positions, [B, K, G·T, H]: operands are copied once, and the products read them as they lie. The
    # scale is applied behind: copies that do nothing else are fast on CPUs.
    rows = q.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4).reshape(B, K, -1, H)
    scores = _scores(rows, k.swapaxes(1, 2)).reshape(B, N, T, S) * scale
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = softmax(scores).astype(v.dtype)
    if drop is not None:
        weights = drop(weights)
    out = _mixed(weights.reshape(B, K, -1, S), v.swapaxes(1, 2))
    return out.reshape(B, K, N // K, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


class MultiHeadAttention(nn.Module):
    """Self-attention, or cross-attention when a context is given; float[B, T, D] -> float[B, T, D].

    Parameters: {q, k, v, out}/{kernel, bias}, kernels [D, N·H] and [N·H, D].

    Attributes:
      heads, kv_heads: N and K; K defaults to N.
      head_dim: H, default D / N.
      q_bias, k_bias, v_bias, out_bias: BEiT and EVA have no key bias, LLaMA and T5 none at all.
      scale: factor of the scores; default H^-½; T5 uses 1.
      inner_eps: epsilon of a layer norm before `out`, `norm_inner` (sub-LN of BEiT-3); None: no norm.
      bias_kv: one learned key and value after the sequence's own (ImageBind): `bias_k`, `bias_v` [K·H].
      out_features: default D.
      dropout: of the attention weights.
      kernel: see `attend`.
      segments: each has maps (and an inner norm) of its own, `q_{expert}` … (see nn/segments.py); all attend to all.
      lora: adapters of the maps, `q_lora` … (nn/lora.py); none where there are segments.
      int8: the maps' kernels are whole numbers (nn/int8.py).
    """

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    q_bias: bool = True
    k_bias: bool = True
    v_bias: bool = True
    out_bias: bool = True
    scale: float | None = None
    inner_eps: float | None = None
    bias_kv: bool = False
    out_features: int | None = None
    dropout: float = 0.0
    inits: BlockInit = normal_init()
    dtype: DTypeLike = jnp.float32
    kernel: str = "xla"
    segments: Segments = ()
    lora: LoraSpec | None = None
    int8: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S E"] | None = None,
        *,
        kv: tuple[Float[Array, "B S G"], Float[Array, "B S G"]] | None = None,
        bias: Float[Array, "#B #N #T #S"] | None = None,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        rope: Rope | None = None,
        slots: Slots | None = None,
        stored: bool = False,
        train: bool = False,
    ) -> Float[Array, "B T F"]:
        """Attends from x to `context` (default: x itself); `rope` rotates queries and keys by the same positions.

        Args:
          x: float[B, T, D].
          context: float[B, S, E].
          kv: keys and values float[B, S, K·H] that were projected elsewhere, in the place of a context; the module then
            has no `k` and `v` (ALBEF's twin layers for NLVR2 share theirs).
          bias, mask: see `attend`.
          rope: of x's positions.
          slots: where keys and values are kept for later calls (nn/cache.py). Where they are read, S is the cache's,
            and x's tokens see those before them unless `mask` says otherwise.
          stored: attend to the context whose keys and values an earlier call has kept, under its mask; x may have g
            rows for each of its rows (beams).
          train: whether dropout draws.
        """
        B, T, D = x.shape
        N, K = self.heads, self.kv_heads or self.heads
        if (D % N and self.head_dim is None) or N % K:
            raise UserError(f"attention: {N} heads do not divide the width {D}, or {K} key heads do not divide {N}")
        H = self.head_dim or D // N
        own, context = context is None and kv is None, x if context is None else context

        def dense(
            x: Array, features: int, axes: tuple[str, str], use_bias: bool, init: Initializer, name: str
        ) -> Array:
            def make(expert: str) -> Dense | Int8Dense:
                if self.int8:
                    return Int8Dense(features, axes, use_bias, self.dtype, name=f"{name}{expert}")
                return Dense(features, axes, use_bias, init, self.inits.attn_bias, self.dtype, name=f"{name}{expert}")

            y = by_segment(x, self.segments, make)
            if self.lora is None or self.segments or name not in self.lora.maps:
                return y
            return y + Lora(self.lora, features, axes, self.dtype, name=f"{name}_lora")(x, train=train)

        q = dense(x, N * H, ("embed", "heads"), self.q_bias, self.inits.qkv, "q").reshape(B, T, N, H)
        k: Any
        v: Any
        if stored:
            k, v = (self.get_variable(CACHE, f"{CONTEXT}_{name}") for name in "kv")
            mask = self.get_variable(CACHE, f"{CONTEXT}_mask")
            q = q.reshape(len(k), -1, N, H)  # rows of one context side by side, as more queries
        else:
            if kv is None:
                k = dense(context, K * H, ("embed", "heads"), self.k_bias, self.inits.qkv, "k")  # [B, S, K*H]
                v = dense(context, K * H, ("embed", "heads"), self.v_bias, self.inits.qkv, "v")
            else:
                k, v = kv
            if self.bias_kv:
                k, v = self._append(k, "bias_k"), self._append(v, "bias_v")
                bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))
                mask = None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=True)
            k, v = k.reshape(len(k), -1, K, H), v.reshape(len(v), -1, K, H)
        # Where `tensor` does not divide the heads, all are whole on each device: a part of a head has no softmax.
        q, k, v = (constrain(x, "batch", None, "heads", None) for x in (q, k, v))
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if slots is not None and not stored:
            k, v, mask = self._keep(k, v, mask, slots, own)
        drop = nn.Dropout(self.dropout, deterministic=not train, name="drop") if self.dropout else None
        scale = H**-0.5 if self.scale is None else self.scale
        y = attend(q, k, v, scale=scale, bias=bias, mask=mask, drop=drop, kernel=self.kernel)
        y = constrain(y.reshape(B, T, N * H), "batch", None, "heads")
        if (eps := self.inner_eps) is not None:
            y = by_segment(y, self.segments, lambda expert: LayerNorm(eps, self.dtype, name=f"norm_inner{expert}"))
        return dense(y, self.out_features or D, ("heads", "embed"), self.out_bias, self.inits.out, "out")

    def _keep(
        self, k: Array, v: Array, mask: Array | None, slots: Slots, own: bool
    ) -> tuple[Array, Array, Array | None]:
        """Keys and values into the cache; returns those to attend to, and their mask."""
        if not own:
            for name, value in {"k": k, "v": v, "mask": mask}.items():
                if value is not None:
                    self.put_variable(CACHE, f"{CONTEXT}_{name}", value)
            return k, v, mask
        if slots.size is not None:
            self.put_variable(CACHE, "k", begun(k, slots))
            self.put_variable(CACHE, "v", begun(v, slots))
            return k, v, mask
        length = k.shape[1]
        k, v = (written(self.get_variable(CACHE, name), x, slots.start) for name, x in (("k", k), ("v", v)))
        k, v = (constrain(x, "batch", None, "heads", None) for x in (k, v))
        self.put_variable(CACHE, "k", k)
        self.put_variable(CACHE, "v", v)
        return k, v, seen(slots, length, k.shape[1]) if mask is None else mask

    def _append(self, x: Float[Array, "B S D"], name: str) -> Float[Array, "B S+1 D"]:
        extra = self.param(name, normal(x.shape[-1] ** -0.5), (x.shape[-1],), jnp.float32).astype(x.dtype)
        return jnp.concatenate([x, jnp.broadcast_to(extra, (x.shape[0], 1, x.shape[-1]))], axis=1)
