"""BEiT-3: images as a foreign language, one Multiway transformer and one task, masked data modelling (Wang et al. 2022,
"Image as a Foreign Language: BEiT Pretraining for All Vision and Vision-Language Tasks")."""

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
from mmjax.decoders.generate import write
from mmjax.decoders.settings import Settings
from mmjax.encoders.tokens import ImageTokens, WordTokens
from mmjax.fusion.multiway import IMG, TXT, Multiway
from mmjax.losses import masking, mlm
from mmjax.losses.classify import cross_entropy, soft_answers
from mmjax.losses.contrastive import softmax_contrastive
from mmjax.losses.pixels import masked_pixels, patch_pixels
from mmjax.nn import masks
from mmjax.nn.cache import Slots
from mmjax.nn.classifier import Classifier
from mmjax.nn.dense import Dense, normal
from mmjax.nn.norm import LayerNorm, unit
from mmjax.nn.patch import normalise
from mmjax.systems import base, vqkd

TASKS = ("mdm", "caption", "retrieval", "vqa", "nlvr2", "classify")
EPS = 1e-5
HALF = (0.5, 0.5, 0.5)
TARGETS = ("codes", "pixels")
RATES = {"image": 0.4, "text": 0.15, "pair": 0.5, "caption": 0.7}


class BEiT3(nn.Module):
    """Images and texts through one Multiway transformer; the image stands before the text.

    Attributes:
      tasks: what the system has heads for: "mdm" (pre-training), "caption", "retrieval", "vqa", "nlvr2", "classify".
      target: what masked data modelling predicts of patches: "codes", or "pixels", each patch's normalised (as MAE).
      codes: image codes; tokenizer: the VQ-KD that gives them, never trained here.
      classes: of VQA or of images.
      mask_id: id of the mask token; rates: share that is masked of images alone and in pairs, texts alone, texts of
        pairs, captions. smoothing: of the labels of captions.
      begin_id: token with which a caption begins; end_ids: the tokens that end it.
    """

    img: ImageTokens
    txt: WordTokens
    fusion: Multiway
    tasks: tuple[str, ...]
    mask_id: int
    target: str = "codes"
    codes: int = 8192
    tokenizer: vqkd.VQKD | None = None
    classes: int = 3129
    rates: Mapping[str, float] | None = None
    smoothing: float = 0.1
    begin_id: int = 0
    end_ids: tuple[int, ...] = (2,)
    dtype: DTypeLike = jnp.float32

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def dense(features: int, bias: bool = True, axis: str | None = None, std: float = 0.02) -> Dense:
            return Dense(features, ("embed", axis), bias, normal(std), dtype=self.dtype)

        D, tasks = self.img.width, set(self.tasks)
        if tasks & {"mdm", "caption"}:
            self.words = dense(self.txt.vocab, axis="vocab")
        if "mdm" in tasks:
            self.patches = dense(self.codes if self.target == "codes" else 3 * self.img.patch**2)
        if "retrieval" in tasks:
            self.img_proj, self.txt_proj = dense(D, False), dense(D, False)
            self.log_scale = self.param("log_scale", nn.initializers.constant(np.log(1 / 0.07)), (), jnp.float32)
        if "vqa" in tasks:
            self.pool_norm, self.pooler = LayerNorm(EPS, self.dtype), dense(D)
            self.answer_head = Classifier(2 * D, self.classes, dtype=self.dtype)
        if "nlvr2" in tasks:
            self.pair_head = Classifier(2 * D, 2, norm_in=True, std=2e-5, dtype=self.dtype)
        if "classify" in tasks:
            self.class_norm, self.class_head = LayerNorm(EPS, self.dtype), dense(self.classes, std=2e-5)

    def states(
        self,
        image: Array | None = None,
        ids: Array | None = None,
        valid: Array | None = None,
        *,
        masked: Bool[Array, "B P"] | None = None,
        mask: Bool[Array, "#B 1 T T"] | None = None,
        slots: Slots | None = None,
        train: bool = False,
    ) -> Float[Array, "B S D"]:
        """The transformer's states of an image (class token first), of a text, or of the image and then the text.

        Args:
          image, ids, valid: of a batch.
          masked: patches that the mask token replaces.
          mask: True = attend, besides that no token sees padding.
          slots: a new cache of keys and values (nn/cache.py).
        """
        parts, seen = [], []
        if image is not None:
            parts.append((IMG, self.img(normalise(image, HALF, HALF), masked)))
            seen.append(jnp.ones(parts[0][1].shape[:2], bool))
        if ids is not None:
            real = jnp.asarray(valid)
            parts.append((TXT, self.txt(jnp.asarray(ids), real)))
            seen.append(real)
        segments = tuple((name, x.shape[1]) for name, x in parts)
        x = jnp.concatenate([x for _, x in parts], axis=1)
        mask = masks.combine(mask, None if ids is None else masks.padding(jnp.concatenate(seen, axis=1)))
        return self.fusion(x, segments, mask=mask, slots=slots, train=train)[0]

    # ---------------------------------------------------------------- methods of the tasks (§2.3, §3)

    def embed_image(self, image: Array, *, train: bool = False) -> Float[Array, "B E"]:
        """Images for retrieval, float32[B, E] of unit length."""
        return _unit(self.img_proj(self.states(image, train=train)[:, 0]))

    def embed_text(self, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B E"]:
        """Texts for retrieval, float32[B, E] of unit length."""
        return _unit(self.txt_proj(self.states(ids=ids, valid=valid, train=train)[:, 0]))

    def answer(self, image: Array, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B C"]:
        """Logits of the answers to questions, from the image's class token."""
        x = self.states(image, ids, valid, train=train)[:, 0]
        return self.answer_head(jnp.tanh(self.pooler(self.pool_norm(x))))

    def reason(self, images: Array, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B 2"]:
        """Logits of whether a text is (false, true) of two pictures, `images` [B, 2, Y, X, C] (NLVR2)."""
        passes = [self.states(images[:, i], ids, valid, train=train) for i in (0, 1)]
        begin = self.img.patches + 1  # the text's first token
        return self.pair_head(jnp.concatenate([x[:, at] for x in passes for at in (0, begin)], axis=1))

    def classify(self, image: Array, *, train: bool = False) -> Float[Array, "B C"]:
        """Logits of the classes, from the mean of the patches."""
        x = self.class_norm(self.states(image, train=train)[:, 1:].mean(axis=1))
        return self.class_head(x).astype(jnp.float32)

    def caption_logits(self, image: Array, ids: Array, valid: Array, *, train: bool = False) -> Float[Array, "B T V"]:
        """Logits of the words where each sees the image and the words up to itself; the image sees itself alone."""
        states = self.states(image, ids, valid, mask=self.unidirectional(ids.shape[1]), train=train)
        return self.word_logits(self.behind(states))

    def unidirectional(self, length: int) -> Bool[Array, "1 1 T T"]:
        """The mask of captioning for an image and `length` tokens (§3.1: image captioning)."""
        opens = jnp.arange(self.img.patches + 1 + length) > self.img.patches
        return masks.blocks(opens[None])

    def next_logits(self, image: Array, ids: Array, count: Integer[Array, "B"]) -> Float[Array, "B V"]:
        """Logits of the word after the first `count` tokens of each row: a mask token stands there and guesses.

        Args:
          image: of a batch.
          ids: int[B, T], begin token first; what follows the first `count` has no meaning.
          count: int[B], at least 1 and less than T.
        """
        places = jnp.arange(ids.shape[1])[None]
        shown = jnp.where(places == count[:, None], self.mask_id, ids)
        logits = self.caption_logits(image, shown, places <= count[:, None])
        return jnp.take_along_axis(logits, count[:, None, None], axis=1)[:, 0]

    # ---------------------------------------------------------------- captions, word by word (decoders/generate.py)

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """`ids` and `valid` of the batch, which begin the caption, or the begin token alone."""
        if "ids" in batch:
            return jnp.asarray(batch["ids"]), jnp.asarray(batch["valid"])
        rows = len(batch["image"])
        return jnp.full((rows, 1), self.begin_id, jnp.int32), jnp.ones((rows, 1), bool)

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """Reads image and prompt into a new cache; a mask token behind the prompt guesses the next word.

        Raises:
          UserError: texts longer than the system's positions.
        """
        if room > self.txt.length:
            raise UserError(f"captions of up to {room} tokens, but the system has {self.txt.length} positions")
        # A prompt that fills the room has ended: there is no place behind it, and its guess is not read.
        count, places = valid.sum(axis=1, dtype=jnp.int32), jnp.arange(min(ids.shape[1] + 1, room))[None]
        shown = jnp.pad(ids, ((0, 0), (0, 1)))[:, : places.shape[1]]
        shown = jnp.where(places == count[:, None], self.mask_id, shown)
        before = self.img.patches + 1
        options: dict[str, Any] = {"mask": self.unidirectional(shown.shape[1]), "slots": Slots(size=before + room + 1)}
        states = self.behind(self.states(batch["image"], shown, places <= count[:, None], **options))
        at = jnp.minimum(count, places.shape[1] - 1)
        return self.word_logits(jnp.take_along_axis(states, at[:, None, None], axis=1))[:, 0], before + count

    def decode(self, ids: Array, filled: Array) -> Float[Array, "R V"]:
        """The token goes to slot `filled`; a mask token behind it, where the next one will stand, guesses that."""
        shown = jnp.stack([ids, jnp.full_like(ids, self.mask_id)], axis=1)
        places = filled[:, None] - self.img.patches - 1 + jnp.arange(2)[None]
        x = self.txt(shown, jnp.ones(shown.shape, bool), places)
        (states,) = self.fusion(x, ((TXT, 2),), branches=(True,), slots=Slots(filled))
        return self.word_logits(states[:, 1:])[:, 0]

    def generate(self, batch: Batch, settings: Settings) -> dict[str, Array]:
        """Captions (evals/base.py)."""
        return write(self, batch, settings)

    def logits(self, batch: Batch) -> Float[Array, "B C"]:
        """Of the answers, of (false, true), or of the classes, as the system has a head for them."""
        if "vqa" in self.tasks:
            return self.answer(batch["image"], batch["ids"], batch["valid"])
        if "nlvr2" in self.tasks:
            return self.reason(batch["image"], batch["ids"], batch["valid"])
        if "classify" in self.tasks:
            return self.classify(batch["image"])
        raise UserError(f"BEiT-3 has no head for classes: its tasks are {list(self.tasks)}")

    def word_logits(self, text: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of the words from the states of a text, those behind an image left out; float32."""
        return self.words(text).astype(jnp.float32)

    def behind(self, states: Float[Array, "B S D"]) -> Float[Array, "B T D"]:
        """The states of the text that stands behind an image."""
        return states[:, self.img.patches + 1 :]

    # ---------------------------------------------------------------- objective

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """The task's terms; of "vqa" and "caption" together both, the caption's from `caption_ids`, `caption_valid`."""
        image: Any
        ids: Any
        valid: Any
        image, ids, valid = (batch.get(key) for key in ("image", "ids", "valid"))
        terms: dict[str, Term] = {}
        if "vqa" in self.tasks:
            terms["vqa"] = soft_answers(self.answer(image, ids, valid, train=train), batch["target"])
            ids, valid = batch.get("caption_ids"), batch.get("caption_valid")
        if "caption" in self.tasks:
            behind = jnp.asarray(valid) & (jnp.arange(valid.shape[1]) > 0)[None]  # the end, too, but not the begin
            shown, chosen = self.hide(ids, behind, "caption")
            terms["caption"] = self.caption_loss(image, ids, valid, shown, chosen, train=train)
        if terms:
            return terms
        if "nlvr2" in self.tasks:
            return {"nlvr2": cross_entropy(self.reason(image, ids, valid, train=train), batch["label"])}
        if "classify" in self.tasks:
            return {"classify": cross_entropy(self.classify(image, train=train), batch["label"])}
        if "retrieval" in self.tasks:
            img, txt = self.embed_image(image, train=train), self.embed_text(ids, valid, train=train)
            return {"itc": softmax_contrastive(img, txt, jnp.exp(self.log_scale))}
        return self.masked_losses(batch, train=train)

    def masked_losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Masked data modelling (§2.2): of images, of texts and of pairs, as far as the batch has them.

        Images and texts alone are those that the batch has beside its pairs (data/mixture.py), or else the pairs': a
        batch of pairs is three, each masked by its own draw.
        """
        image: Any
        ids: Any
        valid: Any
        image, ids, valid = (batch.get(key) for key in ("image", "ids", "valid"))
        terms: dict[str, Term] = {}
        targets = None if image is None else self.targets_of(image)
        single: Any = batch.get("alone_image", image)
        if single is not None:
            own = targets if single is image else self.targets_of(single)
            terms["image"] = self.masked_loss(single, own, masked=self.hide_patches(len(single)), train=train)["image"]
        alone = {key: batch.get(key) for key in ("ids", "valid", "begins")}
        if "alone_ids" in batch:
            alone = {key: batch.get(f"alone_{key}") for key in alone}
        if alone["ids"] is not None:
            shown, chosen = self.hide_words(alone, "text")
            options: dict[str, Any] = {"ids": alone["ids"], "valid": alone["valid"], "shown": shown, "chosen": chosen}
            terms["text"] = self.masked_loss(**options, train=train)["text"]
        if image is not None and ids is not None:
            shown, chosen = self.hide_words(batch, "pair")
            masked = self.hide_patches(len(image))
            pair = self.masked_loss(image, targets, ids, valid, masked=masked, shown=shown, chosen=chosen, train=train)
            terms |= {f"pair_{kind}": term for kind, term in pair.items()}
        return terms

    def hide_words(self, texts: Mapping[str, Any], kind: str) -> tuple[Array, Array]:
        """`hide` of the words inside of texts, `ids` and `valid`, by the rate of their kind."""
        inside = masking.words_inside(jnp.asarray(texts["valid"]))
        return self.hide(texts["ids"], inside, kind, texts.get("begins"))

    def targets_of(self, image: Array) -> Integer[Array, "B P"] | Float[Array, "B P N"]:
        """What is predicted of each patch.

        Raises:
          UserError: codes without a tokenizer.
        """
        if self.target == "pixels":
            return patch_pixels(normalise(image, HALF, HALF), self.img.patch)
        if self.tokenizer is None:
            raise UserError("masked data modelling of images needs a tokenizer: system.tokenizer, a VQ-KD")
        return jax.lax.stop_gradient(self.tokenizer.codes_of(image))

    def masked_loss(
        self,
        image: Array | None = None,
        targets: Integer[Array, "B P"] | Float[Array, "B P N"] | None = None,
        ids: Array | None = None,
        valid: Array | None = None,
        *,
        masked: Bool[Array, "B P"] | None = None,
        shown: Integer[Array, "B T"] | None = None,
        chosen: Bool[Array, "B T"] | None = None,
        train: bool = False,
    ) -> dict[str, Term]:
        """`image`: cross-entropy of the codes of masked patches, or the squared error of their pixels; `text`: of the
        chosen words; of one pass."""
        states = self.states(image, shown, valid, masked=masked, train=train)
        terms = {}
        if image is not None and targets is not None and masked is not None:
            loss: Any = mlm.masked_lm if self.target == "codes" else masked_pixels
            terms["image"] = loss(self.code_logits(states), targets, masked)
        if ids is not None and chosen is not None:
            text = states if image is None else self.behind(states)
            terms["text"] = mlm.masked_lm(self.word_logits(text), jnp.asarray(ids), chosen)
        return terms

    def code_logits(self, states: Float[Array, "B S D"]) -> Float[Array, "B P C"]:
        """Logits of the codes of the patches, or their pixels; float32."""
        return self.patches(states[:, 1 : 1 + self.img.patches]).astype(jnp.float32)

    def caption_loss(self, image: Array, ids: Array, valid: Array, shown: Array, chosen: Array, *, train: bool) -> Term:
        """KL divergence from smoothed labels (the true word has 1 - ε, every other ε / (V - 1)) at the chosen words."""
        V, eps = self.txt.vocab, self.smoothing
        logits = self.caption_logits(image, shown, valid, train=train)
        each = mlm.token_losses(logits, jnp.asarray(ids), smoothing=eps * V / (V - 1))
        least = -(1 - eps) * np.log1p(-eps) - (eps * np.log(eps / (V - 1)) if eps else 0.0)
        count = jnp.maximum(chosen.sum(), 1).astype(jnp.float32)
        return Term(jnp.sum(jnp.where(chosen, each - least, 0.0)), count)

    def hide(self, ids: Array, candidates: Array, kind: str, begins: Array | None = None) -> tuple[Array, Array]:
        """(ids with words hidden, which)."""
        key, rates = self.make_rng("dropout"), {**RATES, **(self.rates or {})}
        chosen = masking.choose_tokens(key, candidates, rates[kind], begins)
        shown = mlm.hide_tokens(key, jnp.asarray(ids), chosen, vocab=self.txt.vocab, mask_id=self.mask_id, least=3)
        return shown, chosen

    def hide_patches(self, batch: int) -> Bool[Array, "B P"]:
        """Masked patches, block-wise."""
        side, rate = self.img.image_size // self.img.patch, {**RATES, **(self.rates or {})}["image"]
        return masking.choose_blocks(self.make_rng("dropout"), batch, side, round(rate * side * side))

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text, default all positions."""
        batch = base.example(rows, self.img.image_size, length or self.txt.length)
        if "vqa" in self.tasks:
            batch["target"] = jax.ShapeDtypeStruct((rows, self.classes), jnp.float32)
            if "caption" in self.tasks:
                batch |= {f"caption_{key}": batch[key] for key in ("ids", "valid")}
        if {"nlvr2", "classify"} & set(self.tasks):
            batch["label"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
        if "nlvr2" in self.tasks:
            batch["image"] = jax.ShapeDtypeStruct((rows, 2, *batch["image"].shape[1:]), jnp.uint8)
        return batch

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        if self.is_initializing():  # every expert, whichever of them the tasks read
            image = jnp.zeros((1, self.img.image_size, self.img.image_size, 3))
            ids, valid = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
            states = [self.states(image), self.states(ids=ids, valid=valid), self.states(image, ids, valid)]
            if self.tokenizer is not None:
                self.tokenizer({"image": image})
            if "retrieval" in self.tasks:
                self.img_proj(states[0][:, 0]), self.txt_proj(states[1][:, 0])
            if "mdm" in self.tasks:
                self.code_logits(states[0]), self.word_logits(states[1])
                if len(self.tasks) == 1 and self.target == "codes" and self.tokenizer is None:  # cannot be trained
                    return {}
        return self.losses(batch, train=train) if self.tasks else {}


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    return constrain(unit(x.astype(jnp.float32)), "batch", None)
