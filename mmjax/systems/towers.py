"""Towers that were published alone, DeiT, ViT and BERT: what other systems begin with (`config.init`). No losses."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.core.types import Batch
from mmjax.encoders.bert import Bert
from mmjax.nn.patch import normalise
from mmjax.systems import base
from mmjax.systems.albef_sizes import IMG

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, with which DeiT was trained."""


class ImageTower(nn.Module):
    """A vision transformer, as ALBEF and BLIP take it.

    Attributes:
      img: a ViT whose tokens are normed.
      mean, std: normalisation of uint8 images.
    """

    img: nn.Module
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B P D"]:
        """All tokens of the images, the class token first."""
        return self.img(normalise(batch["image"], self.mean, self.std), train=train).tokens

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch."""
        return {"image": base.example(rows, self.img.image_size, 1)["image"]}


class TextTower(nn.Module):
    """BERT.

    Attributes:
      txt: its layers, and where the checkpoint has one the head for hidden words.
    """

    txt: Bert
    dtype: DTypeLike = jnp.float32

    def __call__(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T N"]:
        """Logits of the word at each place; without a head the last layer's states."""
        states = self.txt(batch["ids"], batch["valid"], train=train)
        return self.txt.logits(states) if self.txt.lm_head else states

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch."""
        batch = base.example(rows, 1, length or self.txt.length)
        return {key: batch[key] for key in ("ids", "valid")}


def build_vit(config: Mapping[str, Any]) -> ImageTower:
    """An image tower from `img` (see systems/base.py), `mean` and `std`.

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    config = base.plain(config)
    base.check_keys("system vit", config, {"name", "img", "mean", "std", *base.SHARED}, ("img",))
    shared = base.shared_options(config)
    img = base.image_tower("system vit: img", {**IMG, **config["img"]}, features=0, **shared)
    pixels: dict[str, Any] = {key: tuple(config[key]) for key in ("mean", "std") if key in config}
    return ImageTower(img, dtype=shared["dtype"], **pixels)


def build_bert(config: Mapping[str, Any]) -> TextTower:
    """A text tower from `txt` (see systems/base.py).

    Raises:
      UserError: unknown or missing keys, or values that do not exist.
    """
    config = base.plain(config)
    base.check_keys("system bert", config, {"name", "txt", *base.SHARED}, ("txt",))
    shared = base.shared_options(config)
    return TextTower(base.bert_tower("system bert: txt", config["txt"], **shared), dtype=shared["dtype"])
