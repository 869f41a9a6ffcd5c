"""CoCa: contrastive features and captions from one forward pass (Yu et al. 2022, "CoCa: Contrastive Captioners are
Image-Text Foundation Models"), in the paper's form and in that of open_clip's published checkpoints."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer, UInt8

from mmjax.core.errors import UserError
from mmjax.core.sharding import BATCH_AXES, constrain
from mmjax.core.types import Batch, Term
from mmjax.decoders.generate import write
from mmjax.decoders.multimodal import MultimodalDecoder
from mmjax.decoders.settings import Settings
from mmjax.losses.contrastive import softmax_contrastive
from mmjax.losses.lm import next_token_sums
from mmjax.nn.cache import Slots
from mmjax.nn.dense import Dense, fan_in_normal, normal
from mmjax.nn.patch import AnyArray, normalise
from mmjax.nn.pool import AttentionalPooler
from mmjax.systems import base
from mmjax.systems.clip import MEAN, STD

POOLS = ("cascade", "parallel", "first", "none")
Image = UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"]


class Sight(NamedTuple):
    """An image: pooled float[B, W] for the contrastive loss, tokens float[B, S, W] for the decoder."""

    pooled: Any
    tokens: Any


class CoCa(nn.Module):
    """An image encoder, the lower half of a text decoder, which has not seen the image, and the upper, which has.

    Attributes:
      img: a ViT; txt: a causal text transformer with a class token behind the text; dec: the upper half.
      pool: how an image becomes one feature and the decoder's tokens. "cascade" (the paper's default): `cap_pool` makes
        tokens, and `con_pool` one feature of them; "parallel": both read the encoder's tokens; "first" (open_clip):
        `cap_pool` makes tokens, of which the first is the feature and the others go to the decoder; "none" (open_clip's
        coca_base): the ViT's own feature and patches.
      queries: of `cap_pool`; pool_width, pool_heads: of both poolers; eps: of their norms of queries and tokens (the
        last one has img's).
      embed_dim: width E of the shared space; project: linear maps take image and text there (else E = pool_width).
      con_weight, cap_weight: λ_con and λ_cap of the paper's loss (§3.2).
      pad_id: this id counts as padding wherever it stands; ignore_id: this id is never a target. open_clip, 0 and 0: it
        has no other sign of padding, though 0 is the token "!" in its vocabulary.
      begin_id, end_ids: the tokens between which a caption is written.
      classes: C of a classifier, a pooler with one query and a linear map (§3.3); then its loss is the only one, but
        where the batch has a text to write as well, `caption_ids`: its loss, weighted by cap_weight (§4.2: VQA).
        class_of: "text" (what the decoder makes of image and text: VQA, SNLI-VE, NLVR2) or "image" (the encoder's
        tokens). class_loss: "softmax", against `label`, or "sigmoid", against `target`. images: per text, NLVR2 has 2.
      scale_init, scale_max, loss_form, loss_block, mean, std: see CLIP.
    """

    img: nn.Module
    txt: nn.Module
    dec: MultimodalDecoder
    embed_dim: int
    pool: str = "cascade"
    queries: int = 256
    pool_width: int = 768
    pool_heads: int = 8
    project: bool = True
    txt_bias: bool = False
    con_weight: float = 1.0
    cap_weight: float = 2.0
    pad_id: int | None = None
    ignore_id: int | None = None
    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    classes: int | None = None
    class_of: str = "text"
    class_loss: str = "softmax"
    images: int = 1
    eps: float = 1e-5
    loss_form: str = "plain"
    loss_block: int | None = None
    scale_init: float = 1 / 0.07
    scale_max: float | None = 100.0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def pooler(queries: int) -> AttentionalPooler:
            eps, eps_out = self.eps, self.img.eps
            return AttentionalPooler(queries, self.pool_width, self.pool_heads, eps, eps_out, dtype=self.dtype)

        if self.pool != "none":
            self.cap_pool = pooler(self.queries)
        if self.pool in ("cascade", "parallel"):
            self.con_pool = pooler(1)
        if self.project:
            axes = ("embed", None)
            self.img_proj = Dense(self.embed_dim, axes, False, fan_in_normal, dtype=self.dtype)
            self.txt_proj = Dense(self.embed_dim, axes, self.txt_bias, fan_in_normal, dtype=self.dtype)
        if self.classes:
            self.class_pool = pooler(1)
            self.class_head = Dense(self.classes, ("embed", None), True, normal(0.02), dtype=self.dtype)
        self.log_scale = self.param("log_scale", nn.initializers.constant(np.log(self.scale_init)), (), jnp.float32)

    def see(self, image: Image, *, train: bool = False) -> Sight:
        """The image for both purposes, in one pass of the encoder."""
        seen = self.img(normalise(image, self.mean, self.std), train=train)
        if self.pool == "none":
            return Sight(seen.pooled, seen.tokens[:, int(self.img.cls) :])
        tokens = self.cap_pool(seen.tokens, train=train)
        if self.pool == "first":
            return Sight(tokens[:, 0], tokens[:, 1:])
        pooled = self.con_pool(tokens if self.pool == "cascade" else seen.tokens, train=train)
        return Sight(pooled[:, 0], tokens)

    def read(self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False) -> Any:
        """The text alone: TextOutput of the lower half, `pooled` of the class token."""
        if self.pad_id is not None:
            valid = jnp.asarray(valid) & (jnp.asarray(ids) != self.pad_id)
        return self.txt(ids, valid, train=train)

    def embed_image(self, image: Image, *, train: bool = False) -> Float[Array, "B E"]:
        """Image features of unit length, float32[B, E]."""
        return self._unit(self.see(image, train=train).pooled, "img_proj")

    def embed_text(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Text features of unit length, float32[B, E]."""
        return self._unit(self.read(ids, valid, train=train).pooled, "txt_proj")

    def _unit(self, x: Float[Array, "B W"], proj: str) -> Float[Array, "B E"]:
        x = (getattr(self, proj)(x) if self.project else x).astype(jnp.float32)
        return constrain(x / jnp.linalg.norm(x, axis=-1, keepdims=True), "batch", None)

    def caption_logits(self, batch: Batch) -> Float[Array, "B T V"]:
        """Logits of the word after each place of the text, given the image; float32[B, T, V]."""
        text = self.read(batch["ids"], batch["valid"]).tokens
        return self.dec.logits(self.dec(text, self.see(batch["image"]).tokens))

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B C"]:
        """Logits of the classes; of a CoCa without them the scaled cosines, rows = images, columns = texts."""
        if not self.classes:
            image, text = self.embed_image(batch["image"]), self.embed_text(batch["ids"], batch["valid"])
            return jnp.exp(self.log_scale) * image @ text.T
        image = batch["image"]  # [B, Y, X, C], or [B, I, Y, X, C]
        if (image.shape[1] if image.ndim == 5 else 1) != self.images:
            raise UserError(f"CoCa: images of shape {list(image.shape)}, but the classifier takes {self.images} a text")
        image = image.reshape(-1, *image.shape[-3:])  # [B * I, Y, X, C]
        if self.class_of == "text":
            return self.classify(batch, self.see(image, train=train), train=train)
        seen = self.img(normalise(image, self.mean, self.std), train=train)
        return self._class_logits(self.class_pool(seen.tokens, train=train))

    def classify(self, batch: Batch, image: Sight, *, train: bool = False) -> Float[Array, "B C"]:
        """Logits of the classes of texts, each with the image or images that were seen for it."""
        ids, valid = (jnp.repeat(jnp.asarray(batch[key]), self.images, axis=0) for key in ("ids", "valid"))
        states = self.dec(self.read(ids, valid, train=train).tokens, image.tokens, train=train)
        return self._class_logits(self.class_pool(states, valid, train=train))

    def _class_logits(self, pooled: Float[Array, "N 1 W"]) -> Float[Array, "B C"]:
        return self.class_head(pooled.reshape(-1, self.images * self.pool_width)).astype(jnp.float32)

    # ---------------------------------------------------------------- captions, word by word (decoders/generate.py)

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """`ids` and `valid` of the batch, which begin the caption, or the begin token alone."""
        if "ids" in batch:
            return jnp.asarray(batch["ids"]), jnp.asarray(batch["valid"])
        if self.begin_id is None:
            raise UserError("CoCa: begin_id of the system is not set, so a caption has nothing to begin with")
        rows = len(batch["image"])
        return jnp.full((rows, 1), self.begin_id, jnp.int32), jnp.ones((rows, 1), bool)

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """Reads image and prompt into a new cache for `room` tokens: (logits float[B, V], int32[B] slots filled)."""
        slots, filled = Slots(size=room), valid.sum(axis=1, dtype=jnp.int32)
        states = self.dec(self.txt(ids, valid, slots=slots).tokens, self.see(batch["image"]).tokens, slots=slots)
        last = jnp.take_along_axis(states, filled[:, None, None] - 1, axis=1)
        return self.dec.logits(last)[:, 0], filled

    def decode(self, ids: Array, filled: Array) -> Array:
        """Logits float[R, V] of the token after `ids` int32[R], which goes to slot `filled`."""
        slots = Slots(filled)
        return self.dec.logits(self.dec(self.txt(ids[:, None], None, slots=slots).tokens, None, slots=slots))[:, 0]

    def generate(self, batch: Batch, settings: Settings) -> dict[str, Array]:
        """Captions: `ids` int32[B, L] and `valid` bool[B, L] behind the prompt, without begin and end tokens."""
        return write(self, batch, settings)

    # ---------------------------------------------------------------- objective

    def features(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """From one pass: `img`, `txt` float32[B, E] of unit length; `nll`, `words` float32[B], of each caption.

        The caption's loss is a sum over examples, so it travels with the features where those are cached in chunks.
        """
        image, text = self.see(batch["image"], train=train), self.read(batch["ids"], batch["valid"], train=train)
        told = jnp.asarray(batch.get("mask_loss", batch["valid"]))
        nll, words = self._written(text.tokens, image, jnp.asarray(batch["ids"]), told, train=train)
        pooled = {"img": self._unit(image.pooled, "img_proj"), "txt": self._unit(text.pooled, "txt_proj")}
        return {**pooled, "nll": nll, "words": words}

    def _written(
        self, text: Array, image: Sight, ids: Array, told: Array, *, train: bool
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """Of each text the summed loss of the words that are to be written, and their number."""
        logits = self.dec.logits(self.dec(text, image.tokens, train=train))
        return next_token_sums(logits, ids, told if self.ignore_id is None else told & (ids != self.ignore_id))

    def objective(self, features: Mapping[str, Array]) -> dict[str, Term]:
        """`λ_con L_con + λ_cap L_cap` (§3.2), over the global batch: every other text is a negative of an image."""
        options: dict[str, Any] = {"form": self.loss_form, "block": self.loss_block, "axis": BATCH_AXES}
        contrastive = softmax_contrastive(features["img"], features["txt"], jnp.exp(self.log_scale), **options)
        return {
            "contrastive": contrastive._replace(weight=self.con_weight),
            "caption": Term(features["nll"].sum(), features["words"].sum(), self.cap_weight),
        }

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """`objective(features(batch))`; of a classifier, its cross-entropy, and that of `caption_ids` if there."""
        if not self.classes:
            return self.objective(self.features(batch, train=train))
        terms: dict[str, Term] = {}
        if "caption_ids" in batch:
            if self.class_of == "image" or self.images > 1:
                raise UserError("CoCa: caption_ids are for a classifier of texts with one image each (VQA)")
            image = self.see(batch["image"], train=train)
            ids, valid = jnp.asarray(batch["caption_ids"]), jnp.asarray(batch["caption_valid"])
            nll, words = self._written(self.read(ids, valid, train=train).tokens, image, ids, valid, train=train)
            terms["caption"] = Term(nll.sum(), words.sum(), self.cap_weight)
            logits = self.classify(batch, image, train=train)
        else:
            logits = self.logits(batch, train=train)
        if self.class_loss == "softmax":
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        else:
            each = optax.sigmoid_binary_cross_entropy(logits, batch["target"])
        return {**terms, "classes": Term(each.sum(), jnp.float32(len(logits)))}

    def __call__(self, batch: Batch, *, train: bool = False) -> Any:
        """Touches every parameter, so that `init` makes them all."""
        if self.classes:
            self.logits(batch, train=train)
            batch = {**batch, "image": batch["image"][:, 0] if self.images > 1 else batch["image"]}
        return self.objective(self.features(batch, train=train))

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text, default the text tower's."""
        batch = base.example(rows, self.img.image_size, length or self.txt.length)
        if self.images > 1:
            image = batch["image"]
            batch["image"] = jax.ShapeDtypeStruct((rows, self.images, *image.shape[1:]), image.dtype)
        return batch

    def constrain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Bounds the scale after every update, as CLIP does."""
        params = dict(params)
        if self.scale_max is not None and "log_scale" in params:
            params["log_scale"] = jnp.minimum(params["log_scale"], np.log(self.scale_max))
        return params


# ---------------------------------------------------------------- sizes


def _paper(width: int, heads: int, img_depth: int, img_mlp: int, depth: int, mlp_dim: int) -> dict[str, Any]:
    """Table 1. Not in the paper, ours: texts of at most 64 words' pieces, layer norms of 1e-5, erf-GELU."""
    blocks = {"width": width, "heads": heads, "act": "gelu"}
    img = {"image_size": 288, "patch": 18, "depth": img_depth, "mlp_dim": img_mlp, **blocks}
    img |= {"patch_bias": True, "cls": False, "pool": "none", "norm_pre": False, "norm_post": "all"}
    txt = {"vocab": 64_000, "length": 64, "depth": depth, "mlp_dim": mlp_dim, **blocks}
    pool = {"pool": "cascade", "queries": 256, "pool_width": width, "pool_heads": heads, "project": False}
    return {"embed_dim": width, "img": img, "txt": txt, "dec": {"depth": depth}, **pool}


def _open_clip(embed_dim: int, img: tuple[int, int, int, int], width: int, vocab: int, pooled: bool) -> dict[str, Any]:
    size, patch, img_width, depth = img
    tower = {"image_size": size, "patch": patch, "width": img_width, "depth": depth, "heads": img_width // 64}
    pools = {"pool": "none", "norm_post": "none"} if pooled else {"pool": "cls", "norm_post": "all"}
    txt = {"vocab": vocab, "length": 76, "width": width, "depth": 12, "heads": width // 64, "act": "gelu"}
    shared: dict[str, Any] = {"pool": "none", "pad_id": 0, "ignore_id": 0, "begin_id": 49_406, "end_ids": (49_407,)}
    shared |= {"pool": "first", "queries": 256, "pool_width": embed_dim, "pool_heads": 8} if pooled else {}
    dec = {"depth": 12, "mlps": 2}
    return {"embed_dim": embed_dim, "img": {**tower, "act": "gelu", **pools}, "txt": {**txt, "cls_shift": True},
            "dec": dec, **shared}  # fmt: skip


SIZES: dict[str, dict[str, Any]] = {
    "base": _paper(768, 12, 12, 3072, 12, 3072),
    "large": _paper(1024, 16, 24, 4096, 12, 4096),
    "coca": _paper(1408, 16, 40, 6144, 18, 5632),
    "open_clip_vit_b32": _open_clip(512, (224, 32, 768, 12), 512, 49_408, True),
    "open_clip_vit_l14": _open_clip(768, (224, 14, 1024, 24), 768, 49_408, True),
    "open_clip_base": _open_clip(512, (288, 18, 768, 12), 768, 64_000, False),
}
"""The paper's three, and open_clip's three."""

_OWN = {"pool", "queries", "pool_width", "pool_heads", "project", "txt_bias", "con_weight", "cap_weight", "pad_id",
        "ignore_id", "begin_id", "end_ids", "classes", "class_of", "class_loss", "images", "eps", "loss_form",
        "loss_block", "scale_init", "scale_max", "mean", "std"}  # fmt: skip
_DEC = {"depth", "heads", "mlp_dim", "act", "eps", "mlps", "layer_scale", "dropout", "scan", "remat", "attention"}


def build(config: Mapping[str, Any]) -> CoCa:
    """A CoCa from a mapping.

    Keys: `size`, `img` and `txt` (see systems/base.py; the text tower's pool is always "cls"), `dec` (depth; what it
    does not say of heads, mlp_dim, act, eps is as in `txt`), `embed_dim`, and the attributes of `CoCa`.

    Raises:
      UserError: unknown or missing keys and values that do not exist; the message lists the valid ones.
    """
    config = base.plain(config)
    if (size := config.pop("size", None)) is not None:
        base.check_choice("system coca: size", size, SIZES)
        config = base.override(SIZES[size], config)
    shared = {"dtype", "scan", "remat", "attention"}
    base.check_keys("system coca", config, {"name", "size", "embed_dim", "img", "txt", "dec", *_OWN, *shared},
                    required=("embed_dim", "img", "txt", "dec"))  # fmt: skip
    choices = {"pool": POOLS, "class_of": ("text", "image"), "class_loss": ("softmax", "sigmoid"),
               "loss_form": ("plain", "blocked", "ring")}  # fmt: skip
    for key, valid in choices.items():
        base.check_choice(f"system coca: {key}", config.get(key, valid[0]), valid)
    options = base.shared_options(config)
    txt = {"pool": "cls", **config["txt"]}
    base.check_choice("system coca: txt: pool", txt["pool"], ("cls",))
    base.check_keys("system coca: dec", config["dec"], _DEC, required=("depth",))
    img = base.image_tower("system coca: img", {"pool": "none", "norm_post": "all", **config["img"]},
                           features=config["embed_dim"], **options)  # fmt: skip
    tower = base.text_tower("system coca: txt", txt, **options)
    as_txt = {key: getattr(tower, key) for key in ("heads", "mlp_dim", "act", "eps", "dropout")}
    dec = MultimodalDecoder(**{**options, **as_txt, "vocab": txt["vocab"], "width": txt["width"], **config["dec"]})
    own: dict[str, Any] = {
        k: tuple(v) if k in ("mean", "std", "end_ids") else v for k, v in config.items() if k in _OWN
    }
    own = {"pool_width": txt["width"], "pool_heads": txt["heads"], **own}
    if own["pool_width"] % own["pool_heads"]:
        raise UserError(f"system coca: {own['pool_heads']} pool_heads do not divide pool_width {own['pool_width']}")
    return CoCa(img=img, txt=tower, dec=dec, embed_dim=config["embed_dim"], dtype=options["dtype"], **own)
