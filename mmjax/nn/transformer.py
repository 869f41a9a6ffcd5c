"""Transformer blocks and stacks of them, unrolled or scanned, rematerialised or not."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.cache import CACHE, Slots
from mmjax.nn.dense import BlockInit, Dense, normal_init
from mmjax.nn.lora import LoraSpec
from mmjax.nn.mlp import Mlp
from mmjax.nn.norm import norm
from mmjax.nn.segments import Segments, by_segment

REMAT = {
    None: None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ORDERS = ("pre", "post", "branch")


def remat_policy(remat: str | None) -> Any:
    """What a rematerialised block keeps for the backward pass; None: it is not rematerialised.

    Where parameters are split along `fsdp`, a block that keeps all its activations is rematerialised, too, so that it
    does not keep the gathered kernels: they would be whole copies of the parameters on every device. It gathers them
    again, and computes nothing twice.

    Raises:
      UserError: no such kind.
    """
    if remat not in REMAT:
        raise UserError(f"remat {remat!r} does not exist; there are {', '.join(map(repr, REMAT))}")
    if remat is None and jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) > 1:
        return _all_but_gathered
    return REMAT[remat]


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    # A gathered kernel comes out of a constraint, or of `gathered` itself if it does not train. An activation goes into
    # its constraint, and is kept there.
    return primitive.name not in ("sharding_constraint", "custom_vjp_call")


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a block is made of.

    Attributes:
      heads, mlp_dim, act, eps: see MultiHeadAttention, Mlp and norm.py.
      norm: "layer" or "rms".
      order: where the norm stands. "pre": x + f(norm x) (CLIP, ViT); "post": norm(x + f x) (BERT);
        "branch": x + norm(f x) (CogVLM's EVA2).
      cross: adds cross-attention to a context between self-attention and MLP (`cross`, `norm_cross`).
      norm_context: the context passes a norm of its own in every block, `norm_context` (open_clip's CoCa).
      mid_mlp: a second MLP between self- and cross-attention, `norm_mid` and `mlp_mid` (open_clip's CoCa).
      twin: None; or two contexts float[B, 2, S, E], looked at by `cross0` and `cross1`, of which the block takes the
        "mean", or what the linear map `merge` makes of both ("merge": BLIP's NLVR2).
      layer_scale: initial value of a learned gain per channel on each branch, `scale1`, `scale2` (Touvron et al. 2021).
      drop_path: highest rate of dropping a whole branch per example (Huang et al. 2016); grows linearly over a stack.
      dropout, attn_dropout: of the branches, and of the attention weights.
      mlp_dropout: inside the MLP; default `dropout` (BERT: 0).
      attention: kernel of the attention, "xla" or "cudnn" (see nn/attention.py).
      sub_norm: layer norms before the attention's and the MLP's output maps (BEiT-3).
      separate: where a block is given segments, each expert has attention maps and norms of its own, too (the released
        BEiT-3); else only its MLP and the norm before it (VLMo).
      lora: adapters of the maps of attention and MLP (nn/lora.py); int8: their kernels are whole numbers (nn/int8.py).
    """

    heads: int
    mlp_dim: int
    act: str
    eps: float
    norm: str = "layer"
    order: str = "pre"
    kv_heads: int | None = None
    head_dim: int | None = None
    q_bias: bool = True
    k_bias: bool = True
    v_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False
    scale: float | None = None
    sub_norm: bool = False
    separate: bool = False
    bias_kv: bool = False
    cross: bool = False
    twin: str | None = None
    norm_context: bool = False
    mid_mlp: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    attn_dropout: float = 0.0
    mlp_dropout: float | None = None
    attention: str = "xla"
    inits: BlockInit = normal_init()  # noqa: RUF009 - frozen
    dtype: DTypeLike = jnp.float32
    lora: LoraSpec | None = None
    int8: bool = False


@struct.dataclass
class Inputs:
    """What every block of a stack reads besides its tokens; all optional.

    Attributes:
      bias, mask: of self-attention, float and bool [B or 1, N or 1, T or 1, T]; True = attend.
      rope: positions of self-attention.
      context, context_mask: float[B, S, E] and bool[B or 1, N or 1, T or 1, S] of cross-attention; E may differ from D.
      slots: where self-attention keeps its keys and values, and cross-attention its context's (nn/cache.py); where they
        are read, no context is given.
      mode: which self-attention and which norm of it: "" is `attn` and `norm1`, "dec" is `attn_dec` and `norm1_dec`.
        Modes share everything else of a block (BLIP's encoder and decoder).
    """

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    bias: Any = None
    mask: Any = None
    rope: Any = None
    context: Any = None
    context_mask: Any = None
    slots: Slots | None = None
    mode: str = struct.field(pytree_node=False, default="")


@struct.dataclass
class LayerInputs:
    """What differs from block to block: a drop-path rate float[], an attention bias float[B|1, N|1, T|1, T], keys and
    values of cross-attention that were projected outside of the block (float[B, S, K·H], float[B, S, K·H])."""

    drop_path: Any = None
    bias: Any = None
    context_kv: Any = None


class Block(nn.Module):
    """Attention, optionally cross-attention, MLP: float[B, T, D] -> float[B, T, D].

    `train` is an attribute, not an argument, so that remat and scan never see a Python flag; so are `segments`, the
    tokens of each expert (see nn/segments.py), whose modules are called `mlp_{expert}` and `norm2_{expert}`.
    """

    spec: BlockSpec
    train: bool = False
    segments: Segments = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], layer: LayerInputs | None = None, inputs: Inputs | None = None
    ) -> Float[Array, "B T D"]:
        s, layer, inputs = self.spec, layer or LayerInputs(), inputs or Inputs()
        bias = inputs.bias
        if layer.bias is not None:
            bias = layer.bias if bias is None else bias + layer.bias

        reads = inputs.slots is not None and inputs.slots.reads
        mode = f"_{inputs.mode}" if inputs.mode else ""
        own = self.segments if s.separate else ()

        def attend(x: Array) -> Array:
            attention = self._attention(f"attn{mode}", bias_kv=s.bias_kv, segments=own)
            return attention(x, bias=bias, mask=inputs.mask, rope=inputs.rope, slots=inputs.slots, train=self.train)

        def cross(x: Array) -> Array:
            if s.twin is not None:
                return self._twin(x, inputs.context)
            context, kv, mask, slots = inputs.context, layer.context_kv, inputs.context_mask, inputs.slots
            if s.norm_context and context is not None:
                context = norm(s.norm)(s.eps, s.dtype, name="norm_context")(context)
            attention = self._attention("cross")
            return attention(x, context, kv=kv, mask=mask, slots=slots, stored=reads, train=self.train)

        def expert(name: str) -> Any:
            eps, dropout = s.eps if s.sub_norm else None, s.dropout if s.mlp_dropout is None else s.mlp_dropout
            mlp = Mlp(s.mlp_dim, s.act, s.gated, s.mlp_bias, eps, dropout, s.inits, s.dtype, s.lora, s.int8,
                      name=f"mlp{name}")  # fmt: skip
            return functools.partial(mlp, train=self.train)

        x = constrain(x, "batch", None, None)
        x = self._residual(x, attend, f"1{mode}", layer.drop_path, own)
        if s.mid_mlp:
            x = self._residual(x, expert("_mid"), "_mid", layer.drop_path, ())
        if s.cross and (inputs.context is not None or layer.context_kv is not None or reads):
            x = self._residual(x, cross, "_cross", layer.drop_path, ())
        x = self._residual(x, lambda h: by_segment(h, self.segments, expert), "2", layer.drop_path, self.segments)
        return constrain(x, "batch", None, None)

    def _attention(self, name: str, **options: Any) -> MultiHeadAttention:
        s = self.spec
        return MultiHeadAttention(
            heads=s.heads,
            kv_heads=s.kv_heads,
            head_dim=s.head_dim,
            q_bias=s.q_bias,
            k_bias=s.k_bias,
            v_bias=s.v_bias,
            out_bias=s.out_bias,
            scale=s.scale,
            inner_eps=s.eps if s.sub_norm else None,
            dropout=s.attn_dropout,
            kernel=s.attention,
            inits=s.inits,
            dtype=s.dtype,
            lora=s.lora,
            int8=s.int8,
            name=name,
            **options,
        )

    def _twin(self, x: Float[Array, "B T D"], contexts: Float[Array, "B 2 S E"]) -> Float[Array, "B T D"]:
        """Two contexts, each looked at by an attention of its own."""
        s = self.spec
        looks = [self._attention(f"cross{i}")(x, contexts[:, i], train=self.train) for i in range(2)]
        if s.twin == "mean":
            return (looks[0] + looks[1]) / 2
        both = jnp.concatenate(looks, axis=-1)  # [B, T, 2 * D]
        return Dense(x.shape[-1], ("embed", None), True, s.inits.out, dtype=s.dtype, name="merge")(both)

    def _residual(self, x: Array, branch: Any, part: str, drop_path: Any, segments: Segments) -> Array:
        """x plus a branch, with the norm (of each segment) in its place."""
        s = self.spec
        if s.order not in ORDERS:
            raise UserError(f"order of the norm {s.order!r} does not exist; there are {', '.join(ORDERS)}")

        def normed(x: Array) -> Array:
            return by_segment(x, segments, lambda expert: norm(s.norm)(s.eps, s.dtype, name=f"norm{part}{expert}"))

        h = branch(normed(x) if s.order == "pre" else x)
        h = normed(h) if s.order == "branch" else h
        h = nn.Dropout(s.dropout, name=f"drop{part}")(h, deterministic=not self.train)
        if s.layer_scale is not None:
            gain = self.param(f"scale{part}", nn.initializers.constant(s.layer_scale), (x.shape[-1],), jnp.float32)
            h = h * gain.astype(h.dtype)[None, None]
        if self.train and drop_path is not None:
            keep = 1.0 - jnp.asarray(drop_path, jnp.float32)
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0], 1, 1))
            h = h * (kept / keep).astype(h.dtype)
        x = x + h
        return normed(x) if s.order == "post" else x


class Transformer(nn.Module):
    """A stack of equal blocks: float[B, T, D] -> float[B, T, D].

    Unrolled, the parameters are block_{i}/…; scanned, blocks/… with a leading layer axis. `core.stacking` converts.

    Attributes:
      scan: one compiled body for all blocks: compile time stays flat on accelerators. Unrolled is faster on CPU.
      remat: None keeps every activation for the backward pass; "full" recomputes the blocks from their inputs;
        "dots" keeps the products with weights.
      below, above: blocks of other stacks before and after these: drop path grows over all of them.
    """

    spec: BlockSpec
    depth: int
    scan: bool = False
    remat: str | None = None
    below: int = 0
    above: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        inputs: Inputs | None = None,
        *,
        layer_bias: Float[Array, "L #B #N T S"] | None = None,
        segments: Segments = (),
        taps: tuple[int, ...] = (),
        train: bool = False,
    ) -> Any:
        """float[B, T, D] after the blocks; with taps (that, the states at them).

        Args:
          layer_bias: an attention bias per block (BEiT), added to `inputs.bias`.
          segments: tokens of each expert (see nn/segments.py); another call may name others.
          taps: after how many blocks states are wanted, 0 to depth; -1 is after all.

        Raises:
          UserError: a tap beyond the blocks.
        """
        inputs = inputs or Inputs()
        block: Any = Block
        if (policy := remat_policy(self.remat)) is not None:
            # Inside a scan nothing is shared between the forward and the backward loop: no barrier is needed.
            block = nn.remat(Block, policy=policy, prevent_cse=not self.scan)
        rates = None
        if self.spec.drop_path:
            rates = jnp.linspace(0.0, self.spec.drop_path, self.below + self.depth + self.above)
            rates = rates[self.below : self.below + self.depth]
        if any(not -self.depth - 1 <= tap <= self.depth for tap in taps):
            raise UserError(f"states after {taps} blocks of {self.depth} do not exist; valid: 0 to {self.depth}, or -1")
        at = tuple(tap % (self.depth + 1) for tap in taps)
        if not self.scan:
            states = [x]
            for i in range(self.depth):
                layer = jax.tree.map(lambda leaf, i=i: leaf[i], LayerInputs(rates, layer_bias))
                x = block(self.spec, train, segments, name=f"block_{i}")(x, layer, inputs)
                states.append(x)
            return (x, tuple(states[tap] for tap in at)) if taps else x

        def scanned(block: Any, carry: Any, layer: LayerInputs, inputs: Inputs) -> Any:
            x, kept = block(carry[0], layer, inputs), carry[1:]
            if at:
                number = kept[0] + 1
                kept = (number, *(jnp.where(number == tap, x, old) for tap, old in zip(at, kept[1:], strict=True)))
            return (x, *kept), None

        body = nn.scan(
            scanned,
            variable_axes={"params": 0, CACHE: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        start = (x, jnp.int32(0), *(x for _ in at)) if at else (x,)
        stack = block(self.spec, train, segments, name="blocks")
        (x, *kept), _ = body(stack, start, LayerInputs(rates, layer_bias), inputs)
        return (x, tuple(kept[1:])) if taps else x
