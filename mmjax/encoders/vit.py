"""The vision transformer (Dosovitskiy et al. 2021) with the options of the towers that CLIP's descendants use."""

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
from mmjax.nn.dense import BlockInit, Initializer, normal, torch_init, torch_uniform
from mmjax.nn.mlp import Mlp
from mmjax.nn.norm import LayerNorm
from mmjax.nn.patch import PatchEmbed
from mmjax.nn.transformer import BlockSpec, Transformer

POOLS = ("cls", "mean", "flat", "map", "none")
POSTS = ("pooled", "all", "none")


@struct.dataclass
class VisionOutput:
    """tokens float[B, P (+1), D], class token first; pooled float[B, D] (P·D if flat), None without pooling; tapped:
    for each tap the states there, shaped as the tokens."""

    # Any: under jax's transformations the leaves are tracers, shapes or placeholders.
    tokens: Any
    pooled: Any = None
    tapped: Any = ()


class ViT(nn.Module):
    """Patches, a class token, learned positions, blocks: float[B, Y, X, C] -> VisionOutput.

    `tokens` are the last block's states, normed only if norm_post is "all".

    Attributes:
      image_size, patch: pixels; patch_stride: default patch.
      mlp_dim: default 4·width.
      cls: prepend a learned token.
      pool: "cls", "mean" (of the patches), "flat" (the patches' states side by side, P·D wide: it keeps where things
        are, which pays where pictures are aligned and few), "map" (`AttentionPool`: SigLIP) or "none".
      crop_edge: pixels beyond the last whole patch are left out, as in SigLIP's So400m/14 at 384; else an error.
      norm_pre: layer norm before the first block (CLIP).
      norm_post: "pooled" (CLIP: after pooling), "all" (ALBEF, BLIP: on every token, then pooling) or "none" (EVA).
      layer_scale, drop_path, dropout: see BlockSpec; patch_drop: rate of patches left out in training (FLIP).
      attention: kernel of the blocks' attention (see BlockSpec).
      pos_init: of positions and class token, default N(0, 1/width).
      taps: after how many blocks states are wanted besides, unnormed; -2 is before the last block (LLaVA).
    """

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    act: str = "quick_gelu"
    eps: float = 1e-5
    patch_bias: bool = False
    patch_stride: int | None = None
    cls: bool = True
    pool: str = "cls"
    norm_pre: bool = True
    norm_post: str = "pooled"
    q_bias: bool = True
    k_bias: bool = True
    v_bias: bool = True
    out_bias: bool = True
    layer_scale: float | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    patch_drop: float = 0.0
    crop_edge: bool = False
    order: str = "pre"
    attention: str = "xla"
    scan: bool = False
    remat: str | None = None
    inits: BlockInit = torch_init()
    patch_init: Initializer = torch_uniform
    pos_init: Initializer | None = None
    taps: tuple[int, ...] = ()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B Y X C"], *, train: bool = False) -> VisionOutput:
        """Encodes normalised images.

        Raises:
          UserError: images of another size than image_size, or options that do not exist or fit together.
        """
        self._check(image)
        init = self.pos_init or normal(self.width**-0.5)
        patches = PatchEmbed(
            self.patch,
            self.width,
            self.patch_stride,
            self.patch_bias,
            self.patch_init,
            self.crop_edge,
            self.dtype,
            name="patch",
        )
        x = patches(image)
        rows = x.shape[1] + int(self.cls)
        pos = self.param("pos", init, (rows, self.width), jnp.float32).astype(self.dtype)[None]
        x = x + pos[:, int(self.cls) :]
        if train and self.patch_drop:
            x = self._drop_patches(x)
        if self.cls:
            cls = self.param("cls", init, (self.width,), jnp.float32).astype(self.dtype)[None, None] + pos[:, :1]
            x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, self.width)), x], axis=1)
        x = constrain(x, "batch", None, None)
        x = nn.Dropout(self.dropout, name="drop")(x, deterministic=not train)
        if self.norm_pre:
            x = LayerNorm(self.eps, self.dtype, name="norm_pre")(x)
        stack = Transformer(self._spec(), self.depth, self.scan, self.remat, name="transformer")
        if not self.taps:
            return self._pooled(stack(x, train=train))
        x, tapped = stack(x, taps=self.taps, train=train)
        out = self._pooled(x)
        return VisionOutput(out.tokens, out.pooled, tapped)

    def _pooled(self, x: Float[Array, "B T D"]) -> VisionOutput:
        if self.norm_post == "all":
            x = LayerNorm(self.eps, self.dtype, name="norm_post")(x)
        if self.pool == "none":
            return VisionOutput(x)
        patches = x[:, int(self.cls) :]
        if self.pool == "map":
            pooled = AttentionPool(self._spec(), name="pool")(x)
        elif self.pool == "flat":
            pooled = patches.reshape(len(x), -1)  # [B, P * D]
        else:
            pooled = x[:, 0] if self.pool == "cls" else patches.mean(axis=1)
        if self.norm_post == "pooled":
            pooled = LayerNorm(self.eps, self.dtype, name="norm_post")(pooled)
        return VisionOutput(x, constrain(pooled, "batch", None))

    def _drop_patches(self, x: Float[Array, "B P D"]) -> Float[Array, "B Q D"]:
        """Keeps a random subset of the patches, another one for each example, in order."""
        kept = max(1, round(x.shape[1] * (1.0 - self.patch_drop)))
        order = jnp.argsort(jax.random.uniform(self.make_rng("dropout"), x.shape[:2]), axis=1)
        return jnp.take_along_axis(x, jnp.sort(order[:, :kept], axis=1)[:, :, None], axis=1)

    def _spec(self) -> BlockSpec:
        return BlockSpec(
            heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * self.width,
            act=self.act,
            eps=self.eps,
            order=self.order,
            q_bias=self.q_bias,
            k_bias=self.k_bias,
            v_bias=self.v_bias,
            out_bias=self.out_bias,
            layer_scale=self.layer_scale,
            drop_path=self.drop_path,
            dropout=self.dropout,
            attention=self.attention,
            inits=self.inits,
            dtype=self.dtype,
        )

    def _check(self, image: Array) -> None:
        if image.shape[1:3] != (self.image_size, self.image_size):
            size = self.image_size
            raise UserError(
                f"images are {image.shape[1]}x{image.shape[2]}, but the ViT has positions for {size}x{size}"
            )
        if self.pool not in POOLS or self.norm_post not in POSTS:
            raise UserError(f"ViT: pool {self.pool!r} is one of {POOLS}, norm_post {self.norm_post!r} one of {POSTS}")
        if self.pool == "flat" and self.patch_drop:
            raise UserError("ViT: pool 'flat' needs every patch in its place, so patch_drop must be 0")
        if (self.pool == "cls" and not self.cls) or (self.pool == "none" and self.norm_post == "pooled"):
            raise UserError(
                f"ViT: pool={self.pool!r}, cls={self.cls}, norm_post={self.norm_post!r} do not fit together: "
                "pool 'cls' needs cls=True, and norm_post 'pooled' needs a pool"
            )


class AttentionPool(nn.Module):
    """SigLIP's head: one learned query attends to all tokens, then `x + mlp(norm x)`; float[B, T, D] -> float[B, D].

    Heads, widths, activation and epsilon are those of the blocks. Source: Zhai et al. 2022 ("Scaling Vision
    Transformers"), §2.1; Zhai et al. 2023 (SigLIP).
    """

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        s, D = self.spec, x.shape[-1]
        probe = self.param("probe", normal(D**-0.5), (D,), jnp.float32).astype(s.dtype)
        query = jnp.broadcast_to(probe[None, None], (len(x), 1, D))
        attn = MultiHeadAttention(s.heads, inits=s.inits, dtype=s.dtype, name="attn")
        x = attn(query, x)
        normed = LayerNorm(s.eps, s.dtype, name="norm")(x)
        return (x + Mlp(s.mlp_dim, s.act, inits=s.inits, dtype=s.dtype, name="mlp")(normed))[:, 0]
