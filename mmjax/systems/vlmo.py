"""VLMo: one transformer with an expert for each modality, a dual and a fusion encoder at once (Bao et al. 2021, "VLMo:
Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts")."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.errors import UserError
from mmjax.core.sharding import constrain
from mmjax.core.types import Batch, Term
from mmjax.encoders.bert import WordTransform
from mmjax.encoders.tokens import ImageTokens, TextTokens
from mmjax.fusion.multiway import IMG, TXT, LayerBias, Multiway, relative_index, relative_rows
from mmjax.losses import masking, matching, mlm
from mmjax.losses.classify import cross_entropy, soft_answers
from mmjax.losses.contrastive import softmax_contrastive
from mmjax.nn import masks
from mmjax.nn.classifier import Classifier
from mmjax.nn.dense import Dense, normal
from mmjax.nn.norm import unit
from mmjax.nn.patch import AnyArray, normalise
from mmjax.nn.transformer import BlockSpec
from mmjax.systems import base, stacks, vqkd

TASKS = ("mim", "mlm", "itc", "itm", "retrieval", "vqa", "nlvr2")
HALF = (0.5, 0.5, 0.5)
START = np.log(1 / 0.07)
Ids, Valid = Integer[AnyArray, "B T"], Bool[AnyArray, "B T"]


class VLMo(nn.Module):
    """Images and texts through one Multiway transformer; text stands before the image.

    Attributes:
      tasks: what the system has heads for: pre-training "mim" (images alone), "mlm" (texts alone, and pairs), "itc",
        "itm" (pairs); fine-tuning "retrieval", "vqa", "nlvr2".
      relative: rows of relative positions cover texts of so many tokens; None: absolute positions.
      answers: classes of VQA.
      mask_id: id of the mask token; mask_rate: share of the tokens that are predicted; mlm_weight: of pairs.
      codes: image codes that "mim" predicts at 40 % of the patches; tokenizer: the VQ-KD that gives them, kept still.
    """

    img: ImageTokens
    txt: TextTokens
    fusion: Multiway
    tasks: tuple[str, ...]
    relative: int | None
    mask_id: int
    answers: int = 3129
    mask_rate: float = 0.15
    mlm_weight: float = 0.25
    codes: int = 8192
    tokenizer: vqkd.VQKD | None = None
    dtype: DTypeLike = jnp.float32

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def dense(features: int, bias: bool = True) -> Dense:
            return Dense(features, ("embed", None), bias, normal(0.02), dtype=self.dtype)

        D, tasks = self.img.width, set(self.tasks)
        self.types = self.param("types", normal(0.02), (3 if "nlvr2" in tasks else 2, D), jnp.float32)
        if self.relative is not None:
            side, depth = self.img.image_size // self.img.patch, self.fusion.low + self.fusion.top
            self.bias = LayerBias(relative_rows(side, side, self.relative), depth, self.fusion.spec.heads)
        self.pooler = dense(D)
        if "mim" in tasks:
            self.patches = dense(self.codes)
        if "mlm" in tasks:
            self.word = WordTransform(D, "gelu", 1e-12, self.dtype)
            self.words = Dense(self.txt.vocab, ("embed", "vocab"), True, normal(0.02), dtype=self.dtype)
        if "itm" in tasks:
            self.itm = dense(2)
        if tasks & {"itc", "retrieval"}:
            self.img_proj, self.txt_proj = dense(D, False), dense(D, False)
            self.log_scale = self.param("log_scale", nn.initializers.constant(START), (), jnp.float32)
        if "itc" in tasks:
            self.img_vl_proj, self.txt_vl_proj = dense(D, False), dense(D, False)
            self.log_vl_scale = self.param("log_vl_scale", nn.initializers.constant(START), (), jnp.float32)
        if "vqa" in tasks:
            self.answer_head = Classifier(2 * D, self.answers, dtype=self.dtype)
        if "nlvr2" in tasks:
            self.pair_head = Classifier(2 * D, 2, dtype=self.dtype)

    def image_tokens(
        self, image: Array, kind: int = 1, masked: Bool[Array, "B Q"] | None = None
    ) -> Float[Array, "B P D"]:
        """Embedded pixels, class token first; `kind`: their token type, 2 for the second picture of a pair."""
        return self.img(normalise(image, HALF, HALF), masked) + self.types[None, None, kind].astype(self.dtype)

    def text_tokens(self, ids: Array, *, train: bool = False) -> Float[Array, "B T D"]:
        """Embedded words."""
        return self.txt(ids, train=train) + self.types[None, None, 0].astype(self.dtype)

    def states(
        self,
        text: Float[Array, "B T D"] | None,
        valid: Bool[AnyArray, "B T"] | None,
        image: Float[Array, "B P D"] | None,
        *,
        branches: tuple[bool, ...] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B S D"], ...]:
        """The transformer's states for tokens of one or both modalities; `branches` as in `Multiway`."""
        parts = [(TXT, text), (IMG, image)]
        segments = tuple((name, x.shape[1]) for name, x in parts if x is not None)
        x = jnp.concatenate([x for _, x in parts if x is not None], axis=1)
        bias = None
        if self.relative is not None:
            side, tokens = self.img.image_size // self.img.patch, 0 if text is None else text.shape[1]
            bias = self.bias(relative_index(side, side, self.relative, text=tokens, image=image is not None))
        mask = None
        if valid is not None:
            seen = jnp.asarray(valid)
            mask = masks.padding(jnp.pad(seen, ((0, 0), (0, x.shape[1] - seen.shape[1])), constant_values=True))
        return self.fusion(x, segments, mask=mask, layer_bias=bias, branches=branches, train=train)

    # ---------------------------------------------------------------- dual encoder

    def encode_image(self, image: Array, *, train: bool = False) -> dict[str, Float[Array, "B E"]]:
        """`img` and, in pre-training, `img_vl` (its last layers through the fused expert), of unit length; float32."""
        vl = "itc" in self.tasks
        states = self.states(None, None, self.image_tokens(image), branches=(False, True)[: 1 + vl], train=train)
        out = {"img": _unit(self.img_proj(states[0][:, 0]))}
        return out | ({"img_vl": _unit(self.img_vl_proj(states[1][:, 0]))} if vl else {})

    def encode_text(self, ids: Array, valid: Array, *, train: bool = False) -> dict[str, Float[Array, "B E"]]:
        """`txt` and, in pre-training, `txt_vl`; as `encode_image`."""
        vl = "itc" in self.tasks
        x = self.text_tokens(ids, train=train)
        states = self.states(x, valid, None, branches=(False, True)[: 1 + vl], train=train)
        out = {"txt": _unit(self.txt_proj(states[0][:, 0]))}
        return out | ({"txt_vl": _unit(self.txt_vl_proj(states[1][:, 0]))} if vl else {})

    def embed_image(self, image: Array, *, train: bool = False) -> Float[Array, "B E"]:
        """Images for retrieval, through their own expert alone; float32[B, E] of unit length."""
        return self.encode_image(image, train=train)["img"]

    def embed_text(self, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B E"]:
        """Texts for retrieval, through their own expert alone; float32[B, E] of unit length."""
        return self.encode_text(ids, valid, train=train)["txt"]

    # ---------------------------------------------------------------- fusion encoder

    def fuse(self, image: Array, ids: Array, valid: Array, *, kind: int = 1, train: bool = False) -> Array:
        """The fused states, float[B, T + P, D]: text first; token 0 is the text's class token."""
        text = self.text_tokens(ids, train=train)
        return self.states(text, valid, self.image_tokens(image, kind), train=train)[0]

    def pooled(self, states: Float[Array, "B S D"]) -> Float[Array, "B D"]:
        """`tanh(W x)` of the fused states' first token."""
        return jnp.tanh(self.pooler(states[:, 0]))

    def encode_states_image(self, image: Array, *, train: bool = False) -> Float[Array, "B P D"]:
        """What `match` reads of an image: embedded patches, for fusion begins in the first block."""
        return self.image_tokens(image)

    def encode_states_text(self, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B T D"]:
        """What `match` reads of a text: embedded words."""
        return self.text_tokens(ids, train=train)

    def match(
        self,
        image_states: Float[Array, "B P D"],
        text_states: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B 2"]:
        """Logits of (does not fit, fits)."""
        (states,) = self.states(text_states, valid, image_states, train=train)
        return self.itm(self.pooled(states)).astype(jnp.float32)

    def logits(self, batch: Batch) -> Float[Array, "B C"]:
        """Of the answers, or of (false, true), as the system has a head for them."""
        if not {"vqa", "nlvr2"} & set(self.tasks):
            raise UserError(f"VLMo has no head for classes: its tasks are {list(self.tasks)}")
        return (self.answer if "vqa" in self.tasks else self.reason)(batch["image"], batch["ids"], batch["valid"])

    def answer(self, image: Array, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B C"]:
        """Logits of the answers to questions (§3.4: VQA)."""
        return self.answer_head(self.pooled(self.fuse(image, ids, valid, train=train)))

    def reason(self, images: Array, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B 2"]:
        """Logits of whether a text is (false, true) of two pictures, `images` [B, 2, Y, X, C] (NLVR2)."""
        passes = [self.pooled(self.fuse(images[:, i], ids, valid, kind=i + 1, train=train)) for i in (0, 1)]
        return self.pair_head(jnp.concatenate(passes, axis=1))

    def word_logits(self, states: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of the words at text positions; float32."""
        return self.words(self.word(states)).astype(jnp.float32)

    # ---------------------------------------------------------------- objective (§3.2, §3.3)

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """What a batch has material for: images, texts or pairs (the three stages), or a fine-tuning task."""
        image: Any
        ids: Any
        valid: Any
        image, ids, valid = (batch.get(key) for key in ("image", "ids", "valid"))
        if "vqa" in self.tasks:
            return {"vqa": soft_answers(self.answer(image, ids, valid, train=train), batch["target"])}
        if "nlvr2" in self.tasks:
            return {"nlvr2": cross_entropy(self.reason(image, ids, valid, train=train), batch["label"])}
        if ids is None:
            return self.patch_losses(image, train=train)
        terms: dict[str, Term] = {}
        if image is not None and {"itc", "retrieval"} & set(self.tasks):
            features = self.encode_image(image, train=train) | self.encode_text(ids, valid, train=train)
            terms |= self.contrast(features)
            if "itm" in self.tasks:
                logits = jnp.exp(self.log_scale) * features["img"] @ features["txt"].T
                negatives = matching.draw(self.make_rng("dropout"), logits, logits.T, batch.get("image_id"))
                terms |= self.match_losses(image, ids, valid, negatives, train=train)
        if "mlm" in self.tasks:
            hidden, selected = self.hide(ids, valid, batch.get("begins"))
            terms |= self.word_losses(image, ids, valid, hidden, selected, train=train)
        return terms

    def patch_losses(self, image: Array, *, train: bool) -> dict[str, Term]:
        """Masked image modelling: the codes of patches that are hidden block-wise, as in BEiT."""
        if "mim" not in self.tasks or self.tokenizer is None:
            raise UserError("images alone are for the task 'mim', which needs a tokenizer: system.tokenizer, a VQ-KD")
        codes, side = self.tokenizer.codes_of(image), self.img.image_size // self.img.patch
        masked = masking.choose_blocks(self.make_rng("dropout"), len(image), side, round(0.4 * side * side))
        (states,) = self.states(None, None, self.image_tokens(image, masked=masked), train=train)
        return {"mim": mlm.masked_lm(self.patches(states[:, 1:]), codes, masked)}

    def hide(self, ids: Array, valid: Array, begins: Array | None) -> tuple[Array, Array]:
        """(ids with words hidden, which): whole words where `begins` says which tokens begin one (§3.3)."""
        key, inside = self.make_rng("dropout"), masking.words_inside(jnp.asarray(valid))
        selected = masking.choose_tokens(key, inside, self.mask_rate, begins)
        return mlm.hide_tokens(key, ids, selected, vocab=self.txt.vocab, mask_id=self.mask_id), selected

    def contrast(self, features: Mapping[str, Array]) -> dict[str, Term]:
        """Image-text contrast over the global batch: half from the own experts, half from the fused one."""
        term = softmax_contrastive(features["img"], features["txt"], jnp.exp(self.log_scale))
        if "itc" not in self.tasks:
            return {"itc": term}
        vl = softmax_contrastive(features["img_vl"], features["txt_vl"], jnp.exp(self.log_vl_scale))
        return {"itc": term._replace(weight=0.5), "itc_vl": vl._replace(weight=0.5)}

    def match_losses(
        self, image: Array, ids: Array, valid: Array, negatives: matching.Negatives, *, train: bool
    ) -> dict[str, Term]:
        """Matching: each pair, each text beside a wrong image, each image beside a wrong text."""
        text = self.encode_states_text(ids, valid, train=train), jnp.asarray(valid)
        images, texts, fits, counts = matching.with_negatives(self.encode_states_image(image), text, negatives)
        logits = self.match(images, *texts, train=train)
        return {"itm": matching.matching(logits, fits, counts)}

    def word_losses(
        self, image: Array | None, ids: Array, valid: Array, hidden: Array, selected: Array, *, train: bool
    ) -> dict[str, Term]:
        """Masked language modelling, beside the image if there is one."""
        if image is None:
            (states,) = self.states(self.text_tokens(hidden, train=train), valid, None, train=train)
        else:
            states = self.fuse(image, hidden, valid, train=train)[:, : ids.shape[1]]
        term = mlm.masked_lm(self.word_logits(states), jnp.asarray(ids), selected)
        return {"mlm": term if image is None else term._replace(weight=self.mlm_weight)}

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text, default all positions."""
        batch = base.example(rows, self.img.image_size, length or self.txt.length)
        shape = batch["image"].shape
        if "vqa" in self.tasks:
            batch["target"] = jax.ShapeDtypeStruct((rows, self.answers), jnp.float32)
        if "nlvr2" in self.tasks:
            batch["image"] = jax.ShapeDtypeStruct((rows, 2, *shape[1:]), jnp.uint8)
            batch["label"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return batch

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        if self.is_initializing():  # every expert, whichever of them the tasks read
            size = self.img.image_size
            blank = jnp.zeros((1, size, size, 3))
            states = self.states(None, None, self.image_tokens(blank), branches=(False, True))
            if "mim" in self.tasks:
                self.patches(states[0])
            if self.tokenizer is not None:
                self.tokenizer({"image": blank})
            text = self.text_tokens(jnp.zeros((1, 2), jnp.int32))
            self.pooled(self.states(text, jnp.ones((1, 2), bool), None, branches=(False, True))[0])
        return self.losses(batch, train=train)


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    return constrain(unit(x.astype(jnp.float32)), "batch", None)


# ---------------------------------------------------------------- stages, sizes

STAGES: dict[str, tuple[str, ...]] = {
    "images": (
        "(img|patches|bias)/.*",
        "types",
        "fusion/(low|top)/(block_[0-9]+|blocks)/(attn|norm1|mlp_img|norm2_img|scale).*",
        "fusion/norm_final/.*",
    ),
    "text": (
        "(txt|bias|words?)/.*",
        "types",
        "fusion/(low|top)/(block_[0-9]+|blocks)/(mlp_txt|norm2_txt)/.*",
        "fusion/norm_final/.*",
    ),
    "pairs": ("(?!tokenizer/).*",),
}
"""What trains in the three stages (§3.2). On images, all that they use. On text, everything that images use stays as
it is, but for the norm at the end and the relative positions, which the released code trains, too. On pairs, all but
the image tokenizer."""


def _size(width: int, depth: int, heads: int, top: int, positions: str, layer_scale: float | None) -> dict[str, Any]:
    return {
        "width": width,
        "depth": depth,
        "heads": heads,
        "top": top,
        "positions": positions,
        "layer_scale": layer_scale,
        "tasks": ("itc", "itm", "mlm"),
        "img": {"image_size": 224, "patch": 16},
        "txt": {"vocab": 30_522, "length": 40, "mask_id": 103, "relative": 196},
    }


SIZES: dict[str, dict[str, Any]] = {
    "base": _size(768, 12, 12, 2, "relative", 0.1),
    "base_plus": _size(544, 24, 16, 3, "absolute", None),
    "large": _size(1024, 24, 16, 3, "relative", 0.1),
}
"""The published models (table 8 and the released code)."""


def build(config: Mapping[str, Any]) -> VLMo:
    """A VLMo from a mapping; its keys are listed in systems/base.py.

    Raises:
      UserError: unknown or missing keys and values that do not exist; the message lists the valid ones.
    """
    config, where = stacks.sized("vlmo", config, SIZES), "system vlmo"
    options = {"answers", "mask_rate", "mlm_weight", "codes"}
    base.check_keys(where, config, {"name", *stacks.STACK, "top", "positions", "tasks", "tokenizer", "img", "txt",
                                    *options},
                    required=("width", "depth", "heads", "tasks", "img", "txt"))  # fmt: skip
    stacks.check_tasks(where, config["tasks"], TASKS)
    if "itm" in config["tasks"] and "itc" not in config["tasks"]:
        raise UserError(f"{where}: the task 'itm' draws its negatives by the similarities of 'itc'; add that one")
    img, txt, top, D = config["img"], config["txt"], config.get("top", 0), config["width"]
    base.check_keys(f"{where}: img", img, ("image_size", "patch"), ("image_size", "patch"))
    base.check_keys(f"{where}: txt", txt, ("vocab", "length", "mask_id", "relative"), ("vocab", "length", "mask_id"))
    positions = config.get("positions", "relative")
    base.check_choice(f"{where}: positions", positions, ("relative", "absolute"))
    absolute = positions == "absolute"
    fields, shared = stacks.stack_options(where, config)
    spec = BlockSpec(**fields, act="gelu", eps=1e-6, k_bias=False)
    return VLMo(
        img=ImageTokens(
            img["image_size"], img["patch"], D, absolute, maskable="mim" in config["tasks"], dtype=spec.dtype
        ),
        txt=TextTokens(txt["vocab"], txt["length"], D, absolute, spec.drop_path, spec.dtype),
        fusion=Multiway(spec, config["depth"] - top, top, **shared),
        tasks=tuple(config["tasks"]),
        relative=None if absolute else txt.get("relative", txt["length"]),
        mask_id=txt["mask_id"],
        tokenizer=None if config.get("tokenizer") is None else vqkd.build({"name": "vqkd", **config["tokenizer"]}),
        dtype=spec.dtype,
        **{key: config[key] for key in options if key in config},
    )
