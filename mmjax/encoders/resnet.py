"""CLIP's modified ResNet: a three-convolution stem, anti-aliased strides and attention pooling."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain, gathered
from mmjax.core.types import FIXED
from mmjax.encoders.vit import VisionOutput
from mmjax.nn.attention import attend
from mmjax.nn.dense import Dense, fan_in_normal, normal, partitioned, torch_uniform, zeros
from mmjax.nn.transformer import remat_policy

_EPS = 1e-5
_MOMENTUM = 0.9  # of the running statistics; torch calls it 0.1


class Conv(nn.Module):
    """A k×k convolution without bias, padded by k // 2: float[B, Y, X, C] -> float[B, y, x, F]; kernel [k, k, C, F].

    The channels that come out are split over the devices of `tensor`; what goes in is gathered there.
    """

    features: int
    size: int = 1
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B y x F"]:
        axes, shape = (None, None, "embed", "mlp"), (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", partitioned(torch_uniform, *axes), shape, jnp.float32)
        pad = self.size // 2  # explicit: "SAME" pads a strided convolution on one side only, torch on both
        y = lax.conv_general_dilated(
            constrain(x.astype(self.dtype), "batch", None, None, None),
            gathered(jnp.asarray(kernel, self.dtype), axes),
            (self.stride, self.stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return constrain(y, "batch", None, None, "mlp")


class BatchNorm(nn.BatchNorm):
    """Batch norm that trains on the statistics of the batch, unless it is frozen: then on its running ones."""

    train: bool = False

    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:  # type: ignore[override]
        """As in evaluation where the collection FIXED names this module."""
        return super().__call__(x, use_running_average=not self.train or self.has_variable(FIXED, "stats"))


def _norm(train: bool, dtype: DTypeLike, name: str, zero: bool = False) -> BatchNorm:
    gain = partitioned(zeros if zero else nn.initializers.ones_init(), "mlp")  # split as the channels are
    shift = partitioned(zeros, "mlp")
    return BatchNorm(
        train=train, momentum=_MOMENTUM, epsilon=_EPS, scale_init=gain, bias_init=shift, dtype=dtype, name=name
    )


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut: float[B, Y, X, C] -> float[B, Y/s, X/s, 4·width].

    A stride is an average pool: after the second convolution, and before the shortcut's 1×1.
    """

    width: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Y X C"], train: bool) -> Float[Array, "B y x c"]:
        out, window = 4 * self.width, (self.stride, self.stride)
        y = nn.relu(_norm(train, self.dtype, "bn1")(Conv(self.width, dtype=self.dtype, name="conv1")(x)))
        y = nn.relu(_norm(train, self.dtype, "bn2")(Conv(self.width, 3, dtype=self.dtype, name="conv2")(y)))
        if self.stride > 1:
            y = nn.avg_pool(y, window, window)
        y = _norm(train, self.dtype, "bn3", zero=True)(Conv(out, dtype=self.dtype, name="conv3")(y))
        if self.stride > 1 or x.shape[-1] != out:
            if self.stride > 1:
                x = nn.avg_pool(x, window, window)
            x = _norm(train, self.dtype, "down_bn")(Conv(out, dtype=self.dtype, name="down_conv")(x))
        return nn.relu(y + x)


class AttentionPool(nn.Module):
    """Multi-head attention whose one query is the mean token: float[B, P, C] -> float[B, E].

    The mean is put in front of the tokens, positions are added to all, and it attends to all, itself included.
    """

    heads: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B P C"]) -> Float[Array, "B E"]:
        B, P, C = x.shape
        pos = self.param("pos", normal(C**-0.5), (P + 1, C), jnp.float32).astype(self.dtype)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + pos[None]
        heads = (self.heads, C // self.heads)
        q = Dense(C, ("embed", "heads"), kernel_init=fan_in_normal, dtype=self.dtype, name="q")(x[:, :1])
        k = Dense(C, ("embed", "heads"), kernel_init=fan_in_normal, dtype=self.dtype, name="k")(x)
        v = Dense(C, ("embed", "heads"), kernel_init=fan_in_normal, dtype=self.dtype, name="v")(x)
        q, k, v = q.reshape(B, 1, *heads), k.reshape(B, P + 1, *heads), v.reshape(B, P + 1, *heads)
        q, k, v = (constrain(x, "batch", None, "heads", None) for x in (q, k, v))
        y = constrain(attend(q, k, v, scale=heads[1] ** -0.5).reshape(B, C), "batch", "heads")
        return Dense(self.features, ("heads", "embed"), kernel_init=fan_in_normal, dtype=self.dtype, name="out")(y)


class ModifiedResNet(nn.Module):
    """float[B, Y, X, 3] -> VisionOutput: tokens float[B, P, 32·width], pooled float[B, features].

    The attention pool's output map already ends in the shared space, so CLIP has no projection behind it. Parameters
    and the collection `batch_stats` (apply with mutable=["batch_stats"] in training). Under a sharded batch the
    statistics are those of the whole batch.

    Attributes:
      layers: bottlenecks in each of the four stages.
      width: of the stem; stage i has 2^i · width (times 4 at its output).
      features: width E of the output; heads: default 32·width / 64.
      remat: what a bottleneck keeps for the backward pass: null (everything), "full" (its input) or "dots".

    Source: Radford et al. 2021 (CLIP), §2.4; stem: He et al. 2019; anti-aliasing: Zhang 2019.
    """

    image_size: int
    layers: tuple[int, int, int, int]
    width: int
    features: int
    heads: int | None = None
    remat: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B Y X C"], *, train: bool = False) -> VisionOutput:
        """Encodes normalised images.

        Raises:
          UserError: images of another size than image_size, or one that 32 does not divide.
        """
        size, channels, heads = self.image_size, 32 * self.width, self.heads or 32 * self.width // 64
        if image.shape[1:3] != (size, size) or size % 32:
            raise UserError(
                f"images are {image.shape[1]}x{image.shape[2]}; the ResNet takes {size}x{size}, 32 dividing it"
            )
        if not heads or channels % heads:
            raise UserError(f"ResNet: {heads} heads do not divide the {channels} channels of the attention pool")
        x = image.astype(self.dtype)
        stem = ((self.width // 2, 2), (self.width // 2, 1), (self.width, 1))
        for i, (features, stride) in enumerate(stem, start=1):
            x = Conv(features, 3, stride, self.dtype, name=f"conv{i}")(x)
            x = nn.relu(_norm(train, self.dtype, f"bn{i}")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        policy, block = remat_policy(self.remat), Bottleneck
        if policy is not None:
            block = nn.remat(Bottleneck, policy=policy, static_argnums=(2,))  # 2: train
        for i, depth in enumerate(self.layers):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                x = block(self.width * 2**i, stride, self.dtype, name=f"layer{i + 1}_{j}")(x, train)
        tokens = constrain(x.reshape(len(x), -1, channels), "batch", None, None)  # [B, Y/32 * X/32, 32*width]
        return VisionOutput(tokens, AttentionPool(heads, self.features, self.dtype, name="attnpool")(tokens))
