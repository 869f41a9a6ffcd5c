"""VQ-KD: images as codes that keep what a teacher sees in each patch (Peng et al. 2022, "BEiT v2: Masked Image Modeling
with Vector-Quantized Visual Tokenizers")."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.types import FIXED, Batch, Term
from mmjax.encoders.vit import ViT
from mmjax.nn.dense import Dense, normal, normal_init
from mmjax.nn.norm import LayerNorm, unit
from mmjax.nn.patch import normalise
from mmjax.systems import base, clip, stacks

HALF = (0.5, 0.5, 0.5)
CODEBOOK = "codebook"  # the collection of what is no parameter: it follows averages instead of gradients


class Quantised(NamedTuple):
    """codes int[B, P]; vectors float32[B, P, H], unit code vectors whose gradient goes to the features (straight
    through); features float32[B, P, H] before they are normalised; commitment: mean squared distance of the normalised
    features to their codes, as a Term."""

    codes: Any
    vectors: Any
    features: Any
    commitment: Term


class Quantizer(nn.Module):
    """The nearest of K unit vectors, float[B, P, D] -> Quantised; the map to their H channels is part of it.

        z = unit(W x + b),  code = argmin_k |z - e_k|²

    In training, the vectors follow the features that chose them (with no gradient): e <- unit(γ e + (1 - γ) unit(mean
    of z)), over the global batch; those that nobody chose stay where they are. `usage` averages the choices likewise.
    Variables of the collection "codebook": `vectors` [K, H], `usage` [K], `ready` [] (0 until the first batch, whose
    features are clustered for a start).

    Attributes:
      decay: γ.
      kmeans: start from clusters of the first batch, else from random vectors.
      revive: a code whose usage falls below this moves to a random feature of the batch; 0: never, as in the paper.

    Source: BEiT v2, §3.1 and its released code.
    """

    codes: int
    dim: int
    decay: float = 0.99
    kmeans: bool = True
    revive: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"], *, train: bool = False) -> Quantised:
        K, H = self.codes, self.dim
        kernel = self.param("kernel", normal(0.02), (x.shape[-1], H), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (H,), jnp.float32)
        vectors = self.variable(CODEBOOK, "vectors", self._start)
        usage = self.variable(CODEBOOK, "usage", lambda: jnp.zeros(K, jnp.float32))
        ready = self.variable(CODEBOOK, "ready", lambda: jnp.asarray(0.0 if self.kmeans else 1.0, jnp.float32))
        features = jnp.einsum("BPD,DH->BPH", x.astype(jnp.float32), kernel) + bias[None, None]
        z = unit(features)
        flat = lax.stop_gradient(z.reshape(-1, H))
        update = train and not self.is_initializing() and not self.has_variable(FIXED, "stats")
        if update and self.kmeans:
            key = self.make_rng("dropout")
            vectors.value = lax.cond(ready.value > 0, lambda: vectors.value, lambda: clusters(key, flat, K))
            ready.value = jnp.ones_like(ready.value)
        book = vectors.value
        codes = jnp.argmin(jnp.square(book).sum(1)[None] - 2 * flat @ book.T, axis=1)
        chosen = book[codes].reshape(z.shape)
        commitment = Term(jnp.square(chosen - z).mean(-1).sum(), jnp.asarray(z.shape[0] * z.shape[1], jnp.float32))
        if update:
            self._follow(vectors, usage, flat, codes)
        return Quantised(codes.reshape(z.shape[:2]), z + lax.stop_gradient(chosen - z), features, commitment)

    def _start(self) -> Array:
        if self.kmeans:
            return jnp.zeros((self.codes, self.dim), jnp.float32)
        return unit(jax.random.normal(self.make_rng("params"), (self.codes, self.dim), jnp.float32))

    def _follow(self, vectors: Any, usage: Any, z: Array, codes: Array) -> None:
        count, mean = _means(z, codes, self.codes)
        usage.value = self.decay * usage.value + (1 - self.decay) * count
        new = jnp.where(count[:, None] > 0, unit_or_zero(mean), vectors.value)
        book = unit_or_zero(self.decay * vectors.value + (1 - self.decay) * new)
        if self.revive:
            fresh = z[jax.random.randint(self.make_rng("dropout"), (self.codes,), 0, len(z))]
            dead = usage.value < self.revive
            book = jnp.where(dead[:, None], fresh, book)
            usage.value = jnp.where(dead, 1.0, usage.value)
        vectors.value = book


def clusters(key: jax.Array, z: Float[Array, "M H"], count: int, rounds: int = 10) -> Float[Array, "K H"]:
    """`count` unit vectors by spherical k-means over unit rows, from random ones of them."""
    if len(z) >= count:
        start = z[jax.random.permutation(key, len(z))[:count]]
    else:
        start = z[jax.random.randint(key, (count,), 0, len(z))]

    def step(centres: Array, _: None) -> tuple[Array, None]:
        number, mean = _means(z, jnp.argmax(z @ centres.T, axis=1), count)
        return jnp.where(number[:, None] > 0, unit_or_zero(mean), centres), None

    return lax.scan(step, start, None, rounds)[0]


def _means(z: Array, codes: Array, count: int) -> tuple[Array, Array]:
    """(how many rows chose each code, their mean)."""
    number = jnp.zeros(count, jnp.float32).at[codes].add(1.0)
    total = jnp.zeros((count, z.shape[1]), jnp.float32).at[codes].add(z)
    return number, total / jnp.maximum(number, 1.0)[:, None]


def unit_or_zero(x: Float[Array, "*batch H"]) -> Float[Array, "*batch H"]:
    """`x / |x|`, zero where x is."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class VQKD(nn.Module):
    """An encoder to codes, and a decoder from them to a teacher's features of each patch.

    Attributes:
      img, decoder: transformers; the decoder reads the code vectors as an image of one patch a pixel.
      quantize: the codes.
      teacher: CLIP's image tower, normed on all tokens, with its map `teacher_proj` to `target` channels; never
        trained. None: for use alone.
    """

    img: ViT
    decoder: ViT
    quantize: Quantizer
    target: int
    teacher: ViT | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        def head(width: int) -> Dense:
            return Dense(width, ("embed", None), True, normal(0.02))

        self.norm, self.decoder_norm = LayerNorm(self.img.eps), LayerNorm(self.decoder.eps)
        self.encode_head = head(self.img.width)  # float32, as what follows it
        self.decode_head, self.decode_out = head(self.decoder.width), head(self.target)
        if self.teacher is not None:
            self.teacher_proj = Dense(self.target, ("embed", None), False, dtype=self.dtype)

    def encode(self, image: Array, *, train: bool = False) -> Quantised:
        """The codes of an image's patches."""
        return self.quantize(jnp.tanh(self.encode_head(self.patch_states(image, train=train))), train=train)

    def patch_states(self, image: Array, *, train: bool = False) -> Float[Array, "B P D"]:
        """The encoder's normed states of the patches."""
        return self.norm(self.img(normalise(image, HALF, HALF), train=train).tokens[:, 1:])

    def codes_of(self, image: Array) -> Integer[Array, "B P"]:
        """Codes int[B, P], of images of any size: they are resized to the tokenizer's."""
        pixels, size = normalise(image, HALF, HALF), self.img.image_size
        if pixels.shape[1] != size:
            pixels = jax.image.resize(pixels, (len(pixels), size, size, pixels.shape[3]), "cubic")
        return self.encode(pixels).codes

    def decode(self, vectors: Float[Array, "B P H"], *, train: bool = False) -> Float[Array, "B P E"]:
        """The teacher's features from code vectors."""
        return self.decode_out(jnp.tanh(self.decode_head(self.decoder_states(vectors, train=train))))

    def decoder_states(self, vectors: Float[Array, "B P H"], *, train: bool = False) -> Float[Array, "B P D"]:
        """The decoder's normed states of the patches."""
        side = self.decoder.image_size
        grid = vectors.reshape(len(vectors), side, side, -1)
        return self.decoder_norm(self.decoder(grid.astype(self.dtype), train=train).tokens[:, 1:])

    def teacher_features(self, image: Array) -> Float[Array, "B P E"]:
        """The teacher's features of the patches, in CLIP's shared space; no gradient."""
        if self.teacher is None:
            raise UserError("VQ-KD learns from a teacher: system.teacher, the image tower of a CLIP")
        raw = jnp.asarray(image)
        raw = raw.astype(jnp.float32) / 255 if raw.dtype == jnp.uint8 else raw / 2 + 0.5
        shift, scale = (jnp.asarray(each, jnp.float32)[None, None, None] for each in (clip.MEAN, clip.STD))
        states = self.teacher((raw - shift) / scale).tokens[:, 1:]
        return lax.stop_gradient(self.teacher_proj(states).astype(jnp.float32))

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """`1 - cos` of the teacher's features and what the codes give, and the commitment (equation 3).

        `used` is reported: the share of codes that were chosen lately, with weight 0.
        """
        found = self.encode(batch["image"], train=train)
        terms = self.distil(self.decode(found.vectors, train=train), self.teacher_features(batch["image"]))
        usage: Array = self.quantize.get_variable(CODEBOOK, "usage")
        share = Term((usage > 1e-3 * usage.mean()).sum().astype(jnp.float32), jnp.asarray(len(usage), jnp.float32), 0.0)
        return {**terms, "commit": found.commitment, "used": share}

    def distil(self, made: Float[Array, "B P E"], wanted: Float[Array, "B P E"]) -> dict[str, Term]:
        """`1 - cos`, averaged over the patches."""
        cosine = jnp.sum(unit(made.astype(jnp.float32)) * unit(wanted), axis=-1)
        return {"distil": Term(jnp.sum(1 - cosine), jnp.asarray(cosine.size, jnp.float32))}

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows."""
        size = self.img.image_size
        return {"image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8)}

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        if self.teacher is None:  # without one there is nothing to learn
            self.decode(self.encode(batch["image"]).vectors)
            return {}
        return self.losses(batch, train=train)


# ---------------------------------------------------------------- stages, sizes

STAGES: dict[str, tuple[str, ...]] = {"train": ("(?!teacher).*",)}
"""What trains: everything but the teacher."""


def _size(depth: int) -> dict[str, Any]:
    tower = {"width": 768, "heads": 12}
    img = {**tower, "depth": 12, "image_size": 224, "patch": 16}
    return {"img": img, "decoder": {**tower, "depth": depth}, "codes": 8192, "code_dim": 32, "target": 512}


SIZES: dict[str, dict[str, Any]] = {"base_1": _size(1), "base_3": _size(3)}
"""The published tokenizers of CLIP's features, with decoders of one block and of three."""


def build(config: Mapping[str, Any]) -> VQKD:
    """A VQ-KD from a mapping; its keys are listed in systems/stacks.py.

    Raises:
      UserError: unknown or missing keys and values that do not exist; the message lists the valid ones.
    """
    config, where = stacks.sized("vqkd", config, SIZES), "system vqkd"
    keys = {"codes": "codes", "code_dim": "dim", "decay": "decay", "kmeans": "kmeans", "revive": "revive"}
    base.check_keys(where, config, {"name", "img", "decoder", "target", "teacher", "eps", *keys, *stacks.SHARED},
                    required=("img", "decoder", "codes", "code_dim", "target"))  # fmt: skip
    shared = base.shared_options(config)
    img = config["img"]
    side = img["image_size"] // img["patch"]

    def tower(name: str, settings: Mapping[str, Any], **fixed: Any) -> ViT:
        plain = {"act": "gelu", "eps": config.get("eps", 1e-6), "patch_bias": True, "k_bias": False}
        ends = {"norm_pre": False, "norm_post": "none", "pool": "none", "kind": "vit"}
        found: Any = base.image_tower(
            f"{where}: {name}", {**plain, **ends, **fixed, **settings}, features=0, **shared
        )  # fmt: skip
        return found.clone(inits=normal_init(), patch_init=normal(0.02), pos_init=normal(0.02))

    teacher: Any = config.get("teacher")
    if teacher is not None:
        ends = {"pool": "none", "norm_post": "all"}
        teacher = base.image_tower(f"{where}: teacher", {**teacher, **ends}, features=0, **shared)
    return VQKD(
        img=tower("img", img),
        decoder=tower("decoder", config["decoder"], image_size=side, patch=1),
        quantize=Quantizer(**{ours: config[theirs] for theirs, ours in keys.items() if theirs in config}),
        target=config["target"],
        teacher=teacher,
        dtype=shared["dtype"],
    )
