"""LLaVA: a vision tower, a projector, a language model (Liu et al. 2023, "Visual Instruction Tuning"); LLaVA-1.5 (Liu
et al. 2024, "Improved Baselines with Visual Instruction Tuning"); LLaVA-NeXT sees a picture whole and in tiles."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, UInt8

from mmjax.core.errors import UserError
from mmjax.core.types import Batch, Term
from mmjax.decoders.generate import write
from mmjax.decoders.llama import SIZES as DECODERS
from mmjax.decoders.settings import Settings
from mmjax.fusion.splice import Projector, splice
from mmjax.nn.dense import normal
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.patch import AnyArray, normalise
from mmjax.systems import base, language
from mmjax.systems.clip import MEAN, STD


class LLaVA(nn.Module):
    """Words and images in one sequence, of which a decoder writes what follows.

    A row's images are its views, float or uint8 [B, I, Y, X, 3]; `slot` says which of their states stands where.

    Attributes:
      img: a ViT that taps the states in question (the last but one block's: §4.1); llm: the decoder.
      keep_cls: whether the class token's states stay (they do not in the published models).
      layers, act, bias: of the projector: one layer (LLaVA), two with GELU (1.5).
      newline: a learned state for the end of a row of features (NeXT).
      end_ids: tokens that end a text.
      loss_chunk: see LanguageModel.
      mean, std: normalisation of uint8 images; float images are taken as normalised.
    """

    img: nn.Module
    llm: nn.Module
    keep_cls: bool = False
    layers: int = 2
    act: str = "gelu"
    bias: bool = True
    newline: bool = False
    end_ids: tuple[int, ...] = (2,)
    loss_chunk: int = 0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        width = self.llm.width
        self.projector = Projector(self.layers, width, self.act, self.bias, dtype=self.dtype)
        if self.newline:
            self.image_newline = self.param("image_newline", normal(width**-0.5), (width,), jnp.float32)

    @property
    def view_side(self) -> int:
        """Patches along a view's side."""
        return (self.img.image_size - self.img.patch) // (self.img.patch_stride or self.img.patch) + 1

    @property
    def view_states(self) -> int:
        """P, states of a view."""
        return self.view_side**2 + int(self.keep_cls)

    def see(
        self, image: UInt8[AnyArray, "B I Y X C"] | Float[AnyArray, "B I Y X C"], *, train: bool = False
    ) -> Float[Array, "B F D"]:
        """The projected states of a row's views, one after the other; with `newline`, that at the end: F = I·P (+1)."""
        B, I = image.shape[:2]  # noqa: E741 - the axis
        flat = normalise(image.reshape(B * I, *image.shape[2:]), self.mean, self.std)
        tapped = self.img(flat, train=train).tapped
        first = int(self.img.cls and not self.keep_cls)
        states = jnp.concatenate([state[:, first:] for state in tapped], axis=-1)
        states = self.projector(states)
        features = states.reshape(B, -1, states.shape[-1])  # [B, I * P, D]
        if self.newline:
            end = jnp.broadcast_to(self.image_newline.astype(features.dtype)[None, None], (B, 1, features.shape[-1]))
            features = jnp.concatenate([features, end], axis=1)
        return features

    def embed(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T D"]:
        """Embeddings of the tokens, and the images' states in their places; a batch without images is one of texts."""
        tokens = self.llm.embed(jnp.asarray(batch["ids"]))
        if "image" not in batch:
            return tokens
        return splice(tokens, self.see(batch["image"], train=train), jnp.asarray(batch["slot"]))

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T V"]:
        """Logits of the next token at every place, float32."""
        return language.logits(self, batch, train)

    # ---------------------------------------------------------------- objective

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Cross-entropy of the answers' tokens (eq. 3), nats."""
        return self.objective(self.features(batch, train=train))

    def features(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """`language.lm_rows`."""
        return language.lm_rows(self, batch, train)

    def objective(self, features: Mapping[str, Array]) -> dict[str, Term]:
        """`language.lm_terms`."""
        return language.lm_terms(features)

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    # ---------------------------------------------------------------- generation

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """The text begins with all of `ids`, images in it."""
        return jnp.asarray(batch["ids"]), jnp.asarray(batch["valid"])

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """Reads images and prompts; logits of the tokens after them."""
        cut = {"slot": batch["slot"][:, : ids.shape[1]]} if "slot" in batch else {}
        return language.prefill(self, {**batch, **cut, "ids": ids, "valid": valid}, room)

    def decode(self, ids: Integer[Array, "R"], filled: Integer[Array, "R"]) -> Float[Array, "R V"]:
        """Logits of the token after `ids`."""
        return language.decode(self, ids, filled)

    def generate(self, batch: Batch, how: Settings) -> dict[str, Array]:
        """What stands after the prompts, `ids` and `valid`."""
        return write(self, batch, how)

    def likelihood(self, batch: Batch, most: int) -> dict[str, Array]:
        """Log-probabilities of the rows' last tokens; see `language.likelihood`."""
        return language.likelihood(self, batch, most)

    def example(self, rows: int, length: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch with one view a row."""
        size = self.img.image_size
        image = jax.ShapeDtypeStruct((rows, 1, size, size, 3), jnp.uint8)
        slot = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        return {**language.example(rows, length), "image": image, "slot": slot}


# ---------------------------------------------------------------- stages

STAGES: dict[str, tuple[str, ...]] = {
    "align": ("projector/.*",),
    "instruct": ("projector/.*", "llm/.*"),
    "next_instruct": (".*",),
}
"""What the papers train: the projector on captions, then the language model, too; NeXT trains all in the end."""


# ---------------------------------------------------------------- sizes


def _size(side: int, llm: str, layers: int = 2, newline: bool = False) -> dict[str, Any]:
    img = {"image_size": side, "patch": 14, "width": 1024, "depth": 24, "heads": 16, "taps": (-2,)}
    ends = {"yi_34b": (7,), "llama3_8b": (128_009,)}.get(llm, (2,))
    return {"img": img, "llm": DECODERS[llm], "layers": layers, "newline": newline, "end_ids": ends}


SIZES: dict[str, dict[str, Any]] = {
    "v1_7b": _size(224, "llama_7b", layers=1),  # Vicuna v0, from the first LLaMA
    "v1_13b": _size(224, "llama_13b", layers=1),
    "v1_5_7b": _size(336, "vicuna_7b"),
    "v1_5_13b": _size(336, "vicuna_13b"),
    "next_vicuna_7b": _size(336, "vicuna_7b", newline=True),
    "next_vicuna_13b": _size(336, "vicuna_13b", newline=True),
    "next_mistral_7b": _size(336, "mistral_7b_v02", newline=True),
    "next_yi_34b": _size(336, "yi_34b", newline=True),
    "next_llama3_8b": _size(336, "llama3_8b", newline=True),
}


def build(config: Mapping[str, Any]) -> LLaVA:
    """A LLaVA from a mapping: `img` (a ViT's keys with `taps`), `llm` (see systems/language.py), and its attributes.

    Raises:
      UserError: unknown or missing keys and values that do not exist.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice("system llava: size", size, SIZES)
        config = base.override(SIZES[size], config)
    options = {"keep_cls", "layers", "act", "bias", "newline", "end_ids", "loss_chunk", "mean", "std"}
    shared = {"dtype", "scan", "remat", "attention"}
    base.check_keys("system llava", config, {"name", "img", "llm", *options, *shared}, ("img", "llm"))
    base.check_choice("system llava: act", config.get("act", "gelu"), tuple(ACTIVATIONS))
    shared_options = base.shared_options(config)
    language.chunk_of("llava", config)
    img = {"taps": (-2,), **config["img"]}
    if config.get("keep_cls") and not img.get("cls", True):
        raise UserError("system llava: keep_cls = True, but img.cls = False: there is no class token to keep")
    chosen: dict[str, Any] = {
        k: tuple(v) if k in ("mean", "std", "end_ids") else v for k, v in config.items() if k in options
    }
    return LLaVA(
        img=base.image_tower("system llava: img", {**img, "taps": tuple(img["taps"])}, features=0, **shared_options),
        llm=language.decoder("system llava: llm", config["llm"], **shared_options),
        dtype=shared_options["dtype"],
        **chosen,
    )
