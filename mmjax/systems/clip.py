"""CLIP: two towers joined by a dot product (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision"); with the sigmoid loss, SigLIP's objective (Zhai et al. 2023)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer, UInt8

from mmjax.core.sharding import BATCH_AXES, constrain
from mmjax.core.types import Batch, Term
from mmjax.losses.contrastive import sigmoid_contrastive, softmax_contrastive
from mmjax.nn.dense import Dense, fan_in_normal
from mmjax.nn.patch import AnyArray, normalise
from mmjax.systems import base

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class CLIP(nn.Module):
    """Images and texts in one space, where those that belong together point the same way.

    Attributes:
      img, txt: the towers; txt has `pooled` at its end token.
      embed_dim: width E of the shared space.
      project_img: whether a linear map takes the image tower's pooled state to E (the ResNet's pool ends there itself,
        and SigLIP's towers are E wide); txt_bias: whether the text tower's map has a bias (SigLIP).
      loss: "softmax" (symmetric cross-entropy over the batch) or "sigmoid"; loss_form, loss_block: losses/contrastive.
      scale_init, scale_max: the factor of the cosines, learned as its logarithm, and its bound.
      mean, std: normalisation of uint8 images; float images are taken as normalised.
    """

    img: nn.Module
    txt: nn.Module
    embed_dim: int
    project_img: bool = True
    txt_bias: bool = False
    loss: str = "softmax"
    loss_form: str = "plain"
    loss_block: int | None = None
    scale_init: float = 1 / 0.07
    scale_max: float | None = 100.0
    bias_init: float = -10.0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def to_shared(bias: bool) -> Dense:  # std inputs^-½
            return Dense(self.embed_dim, ("embed", None), bias, fan_in_normal, dtype=self.dtype)

        if self.project_img:
            self.img_proj = to_shared(False)
        self.txt_proj = to_shared(self.txt_bias)
        self.log_scale = self.param("log_scale", nn.initializers.constant(np.log(self.scale_init)), (), jnp.float32)
        if self.loss == "sigmoid":
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias_init), (), jnp.float32)

    def pool_image(self, image: UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"]) -> Float[Array, "B D"]:
        """The image tower's pooled state, before the projection into the shared space; float32[B, D].

        What the paper's linear probes read (appendix A.3). A ResNet's attention pool ends in the shared space.
        """
        return self.img(normalise(image, self.mean, self.std), train=False).pooled.astype(jnp.float32)

    def encode_image(
        self, image: UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Image features in the shared space, not normalised; float32[B, E]."""
        pooled = self.img(normalise(image, self.mean, self.std), train=train).pooled
        return (self.img_proj(pooled) if self.project_img else pooled).astype(jnp.float32)

    def encode_text(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Text features in the shared space, not normalised; float32[B, E]."""
        return self.txt_proj(self.txt(ids, valid, train=train).pooled).astype(jnp.float32)

    def embed_image(
        self, image: UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Image features of unit length, float32[B, E]."""
        return _unit(self.encode_image(image, train=train))

    def embed_text(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Text features of unit length, float32[B, E]."""
        return _unit(self.encode_text(ids, valid, train=train))

    def logits(self, batch: Batch) -> Float[Array, "B C"]:
        """Scaled cosines, rows = images, columns = texts (plus logit_bias with the sigmoid loss)."""
        features = self.features(batch, train=False)
        logits = jnp.exp(self.log_scale) * features["img"] @ features["txt"].T
        return logits + self.logit_bias if self.loss == "sigmoid" else logits

    # ---------------------------------------------------------------- objective

    def features(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """`img`, `txt` float32[B, E] of unit length."""
        return {
            "img": self.embed_image(batch["image"], train=train),
            "txt": self.embed_text(batch["ids"], batch["valid"], train=train),
        }

    def objective(self, features: Mapping[str, Array]) -> dict[str, Term]:
        """The contrastive loss over the global batch (§2.3): every other text is a negative of an image."""
        img, txt, scale = features["img"], features["txt"], jnp.exp(self.log_scale)
        options: dict[str, Any] = {"form": self.loss_form, "block": self.loss_block, "axis": BATCH_AXES}
        if self.loss == "sigmoid":
            return {"contrastive": sigmoid_contrastive(img, txt, scale, self.logit_bias, **options)}
        return {"contrastive": softmax_contrastive(img, txt, scale, **options)}

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """`objective(features(batch))`."""
        return self.objective(self.features(batch, train=train))

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text, default the text tower's."""
        size = self.img.image_size
        return base.example(rows, size, length or self.txt.length)

    def constrain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Bounds the scale, after every update: "clipped to prevent scaling the logits by more than 100" (§2.5).

        In the forward pass instead, the bound would have no gradient above it and hold the scale there for ever.
        """
        params = dict(params)
        if self.scale_max is not None and "log_scale" in params:
            params["log_scale"] = jnp.minimum(params["log_scale"], np.log(self.scale_max))
        return params


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    return constrain(x / jnp.linalg.norm(x, axis=-1, keepdims=True), "batch", None)


# ---------------------------------------------------------------- sizes


def _resnet(size: int, layers: tuple[int, int, int, int], width: int) -> dict[str, Any]:
    return {"kind": "resnet", "image_size": size, "layers": layers, "width": width}


def _vit(size: int, patch: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    return {"kind": "vit", "image_size": size, "patch": patch, "width": width, "depth": depth, "heads": heads}


def _size(embed_dim: int, img: dict[str, Any], width: int) -> dict[str, Any]:
    txt = {"vocab": 49_408, "length": 77, "width": width, "depth": 12, "heads": width // 64}
    return {"embed_dim": embed_dim, "img": img, "txt": txt}


def _siglip(size: int, patch: int, width: int, depth: int, heads: int, mlp_dim: int | None = None) -> dict[str, Any]:
    """Both towers as wide as the shared space, no class token but an attention pool, texts seen whole and read last."""
    tower: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim or 4 * width}
    tower |= {"act": "gelu_tanh", "eps": 1e-6}
    img = {"image_size": size, "patch": patch, "patch_bias": True, "cls": False, "pool": "map", "norm_pre": False}
    img |= {"norm_post": "all", **({"crop_edge": True} if size % patch else {})}
    txt = {"vocab": 32_000, "length": 64, "causal": False, "pool": "last"}
    ends = {"project_img": False, "txt_bias": True, "loss": "sigmoid", "scale_init": 10.0, "scale_max": None}
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return {"embed_dim": width, "img": {**img, **tower}, "txt": {**txt, **tower}, **ends, **half}


SIZES: dict[str, dict[str, Any]] = {
    "rn50": _size(1024, _resnet(224, (3, 4, 6, 3), 64), 512),
    "rn101": _size(512, _resnet(224, (3, 4, 23, 3), 64), 512),
    "rn50x4": _size(640, _resnet(288, (4, 6, 10, 6), 80), 640),
    "rn50x16": _size(768, _resnet(384, (6, 8, 18, 8), 96), 768),
    "rn50x64": _size(1024, _resnet(448, (3, 15, 36, 10), 128), 1024),
    "vit_b32": _size(512, _vit(224, 32, 768, 12, 12), 512),
    "vit_b16": _size(512, _vit(224, 16, 768, 12, 12), 512),
    "vit_l14": _size(768, _vit(224, 14, 1024, 24, 16), 768),
    "vit_l14_336": _size(768, _vit(336, 14, 1024, 24, 16), 768),
    **{f"siglip_b_16_{size}": _siglip(size, 16, 768, 12, 12) for size in (224, 256, 384, 512)},
    **{f"siglip_l_16_{size}": _siglip(size, 16, 1024, 24, 16) for size in (256, 384)},
    **{f"siglip_so400m_14_{size}": _siglip(size, 14, 1152, 27, 16, 4304) for size in (224, 384)},
}
"""The published models: CLIP's, and SigLIP's with its English vocabulary."""


def build(config: Mapping[str, Any]) -> CLIP:
    """A CLIP from a mapping; its keys are listed in systems/base.py.

    Raises:
      UserError: unknown or missing keys and values that do not exist; the message lists the valid ones.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice("system clip: size", size, SIZES)
        config = base.override(SIZES[size], config)
    options = {"txt_bias", "loss", "loss_form", "loss_block", "scale_init", "scale_max", "bias_init", "mean", "std"}
    shared = {"dtype", "scan", "remat", "attention"}
    base.check_keys("system clip", config,
                    {"name", "size", "embed_dim", "project_img", "img", "txt", *options, *shared},
                    required=("embed_dim", "img", "txt"))  # fmt: skip
    base.check_choice("system clip: loss", config.get("loss", "softmax"), ("softmax", "sigmoid"))
    base.check_choice("system clip: loss_form", config.get("loss_form", "plain"), ("plain", "blocked", "ring"))
    shared_options = base.shared_options(config)
    img = base.image_tower("system clip: img", config["img"], features=config["embed_dim"], **shared_options)
    txt = base.text_tower("system clip: txt", config["txt"], **shared_options)
    chosen: dict[str, Any] = {k: tuple(v) if k in ("mean", "std") else v for k, v in config.items() if k in options}
    return CLIP(
        img=img,
        txt=txt,
        embed_dim=config["embed_dim"],
        project_img=config.get("project_img", config["img"].get("kind", "vit") == "vit"),
        dtype=shared_options["dtype"],
        **chosen,
    )
