"""BLIP: one text model that reads alone, reads with the image, or writes (Li et al. 2022, "BLIP: Bootstrapping
Language-Image Pre-training"): pre-training, retrieval, captioning. Question answering and NLVR2: blip_tasks.py."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer, UInt8

from mmjax.core.sharding import constrain
from mmjax.core.types import Batch, Term
from mmjax.decoders.generate import write
from mmjax.decoders.settings import Settings
from mmjax.encoders.bert import Bert
from mmjax.losses import matching
from mmjax.losses.lm import next_token
from mmjax.losses.momentum import momentum_contrastive
from mmjax.losses.queue import PastFeatures
from mmjax.nn.cache import Slots
from mmjax.nn.dense import Dense, torch_uniform
from mmjax.nn.patch import AnyArray, normalise
from mmjax.systems import base
from mmjax.systems.clip import MEAN, STD

TASKS = ("itc", "itm", "lm")
WRITES = "dec"
"""The text model's mode of writing: self-attention of its own, everything else shared with the encoder (§3.2)."""
Image = UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"]
Ids = Integer[AnyArray, "B T"]
Valid = Bool[AnyArray, "B T"]


class BLIP(nn.Module):
    """An image encoder, and a text model with three functions.

    Attributes:
      img: a ViT whose tokens are normed; txt: BERT with cross-attention in every layer, which is left out where it
        reads alone, and a head for words where it writes.
      tasks: "itc" (contrast), "itm" (matching), "lm" (writing): all three in pre-training, ("itc", "itm") for
        retrieval, ("lm",) for captions. What no task needs has no parameters.
      embed_dim: width E of the shared space.
      dec_id, enc_id: stand in the place of the first token where the text model writes, and where it reads with the
        image; enc_id None leaves the first token as it is (Hugging Face's class).
      end_ids: the tokens that end a text.
      lead: ids with which a text begins after its first token, where it is to be written and nothing else is said ("a
        picture of").
      smoothing: of the words' labels, over the whole vocabulary.
      queue, alpha, alpha_steps, temperature, bounds, by_id, hard_negatives: see ALBEF; learn_temperature: False keeps τ
        (checkpoints that are for matching alone have none); floor: least weight of a negative in pre-training.
      taught_negatives: whether negatives are drawn by similarities with the teacher's features (pre-training), or by
        the model's own (retrieval).
      mean, std: normalisation of uint8 images; float images are taken as normalised.
    """

    img: nn.Module
    txt: Bert
    embed_dim: int = 256
    tasks: tuple[str, ...] = TASKS
    dec_id: int = 30_522
    enc_id: int | None = 30_523
    end_ids: tuple[int, ...] = (102,)
    lead: tuple[int, ...] = ()
    smoothing: float = 0.1
    queue: int = 57_600
    by_id: bool = False
    alpha: float = 0.4
    alpha_steps: int = 0
    temperature: float = 0.07
    learn_temperature: bool = True
    bounds: tuple[float, float] | None = (0.001, 0.5)
    floor: float = 1e-4
    taught_negatives: bool = True
    hard_negatives: bool = True
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32
    needs: ClassVar[Mapping[str, str]] = base.MATCHING_NEEDS

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def head(features: int) -> Dense:
            return Dense(features, ("embed", None), True, torch_uniform, dtype=self.dtype)

        if "itc" in self.tasks:
            self.img_proj, self.txt_proj = head(self.embed_dim), head(self.embed_dim)
            self.tau: Any = self.temperature
            if self.learn_temperature:
                self.tau = self.param("tau", nn.initializers.constant(self.temperature), (), jnp.float32)
            if self.queue:
                self.past = PastFeatures(self.queue, (("img", self.embed_dim), ("txt", self.embed_dim)), self.by_id)
        if "itm" in self.tasks:
            self.itm_head = head(2)

    def encode_states_image(self, image: Image, *, train: bool = False) -> Float[Array, "B P D"]:
        """All tokens of an image, the class token first."""
        return self.img(normalise(image, self.mean, self.std), train=train).tokens

    def encode_states_text(self, ids: Ids, valid: Valid) -> Integer[Array, "B T"]:
        """A text's ids: it is read anew with each image."""
        return jnp.asarray(ids)

    def read(self, ids: Ids, valid: Valid, *, train: bool = False) -> Float[Array, "B T D"]:
        """A text alone, in both directions (the unimodal encoder)."""
        return self.txt(ids, valid, train=train)

    def ground(
        self, image_states: Float[Array, "B P E"], ids: Ids, valid: Valid, *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """A text with its image, in both directions (the image-grounded encoder)."""
        return self.txt(begun(ids, self.enc_id), valid, image_states, train=train)

    def match(
        self, image_states: Float[Array, "B P E"], text_states: Ids, valid: Valid, *, train: bool = False
    ) -> Float[Array, "B 2"]:
        """Logits of (does not fit, fits)."""
        return self.itm_head(self.ground(image_states, text_states, valid, train=train)[:, 0]).astype(jnp.float32)

    def words(
        self, image_states: Float[Array, "B P E"], ids: Ids, valid: Valid, *, train: bool = False
    ) -> Float[Array, "B T V"]:
        """Logits of the word after each (the image-grounded decoder)."""
        x = self.txt(begun(ids, self.dec_id), valid, image_states, causal=True, mode=WRITES, train=train)
        return self.txt.logits(x)

    def embed_image(self, image: Image, *, train: bool = False) -> Float[Array, "B E"]:
        """Image features of unit length, float32[B, E]."""
        return unit(self.img_proj(self.encode_states_image(image, train=train)[:, 0]))

    def embed_text(self, ids: Ids, valid: Valid, *, train: bool = False) -> Float[Array, "B E"]:
        """Text features of unit length, float32[B, E]."""
        return unit(self.txt_proj(self.read(ids, valid, train=train)[:, 0]))

    # ---------------------------------------------------------------- objective (§3.2)

    def teach(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """The momentum model's features of a batch: `img`, `txt` float32[B, E]; none where nothing is contrasted."""
        if "itc" not in self.tasks:
            return {}
        img = self.embed_image(batch["image"], train=train)
        return {"img": img, "txt": self.embed_text(batch["ids"], batch["valid"], train=train)}

    def losses(
        self, batch: Batch, *, train: bool, taught: Mapping[str, Array] | None = None, step: Array | None = None
    ) -> dict[str, Term]:
        """The tasks' losses, each of weight one.

        Args:
          batch: image, ids, valid; with `by_id` also image_id (else `index` stands for it); `mask_loss` says which
            words are predicted (default: all).
          train: whether dropout acts and the queue takes in the teacher's features.
          taught: of `teach`; None: no teacher, so that contrast's other side is the model's own features, and α = 0.
          step: steps done, for α; None: α has its full value.
        """
        image_states = self.encode_states_image(batch["image"], train=train)
        ids, valid = jnp.asarray(batch["ids"]), jnp.asarray(batch["valid"])
        terms: dict[str, Term] = {}
        if "itc" in self.tasks:
            alpha = 0.0 if taught is None else base.grown(self.alpha, self.alpha_steps, step)
            taught = lax.stop_gradient(self.teach(batch, train=train) if taught is None else dict(taught))
            img = unit(self.img_proj(image_states[:, 0]))
            txt = self.embed_text(ids, valid, train=train)
            pictures = base.picture_ids(batch) if self.by_id else None
            terms["itc"] = self.contrast(img, txt, taught, alpha, pictures)
            if "itm" in self.tasks:
                negatives = self.negatives(base.stream_key(self, "negatives"), img, txt, taught, pictures)
                terms["itm"] = self.matching(image_states, ids, valid, negatives, train=train)[0]
            if train and self.queue:
                self.past.enter({name: taught[name] for name in ("img", "txt")}, pictures)
        if "lm" in self.tasks:
            predicted = jnp.asarray(batch.get("mask_loss", valid))
            terms["lm"] = self.writing(image_states, ids, valid, predicted, train=train)
        return terms

    def contrast(
        self, img: Array, txt: Array, taught: Mapping[str, Array], alpha: Array | float, pictures: Array | None = None
    ) -> Term:
        """ITC: features against the teacher's, of the batch and of the queue."""
        rows = {}
        if self.queue:
            past = self.past()
            rows = {"img_queue": past.features["img"], "txt_queue": past.features["txt"]}
            rows |= {} if pictures is None else {"queue_ids": past.ids}
        return momentum_contrastive(img, txt, taught["img"], taught["txt"], self.tau, alpha, ids=pictures, **rows)

    def negatives(
        self, key: jax.Array, img: Array, txt: Array, taught: Mapping[str, Array], pictures: Array | None = None
    ) -> matching.Negatives:
        """Drawn by the contrastive similarities within the global batch."""
        img_logits, txt_logits = self.similarities(img, txt, taught)
        floor = self.floor if self.taught_negatives else 0.0
        return matching.draw(key, img_logits, txt_logits, pictures, floor=floor, hard=self.hard_negatives)

    def similarities(self, img: Array, txt: Array, taught: Mapping[str, Array]) -> tuple[Array, Array]:
        """float[B, B] of images with texts, and of texts with images, by which negatives are drawn."""
        others = taught if self.taught_negatives else {"img": img, "txt": txt}
        return img @ others["txt"].T / self.tau, txt @ others["img"].T / self.tau

    def matching(
        self, image_states: Array, ids: Array, valid: Array, negatives: matching.Negatives, *, train: bool
    ) -> tuple[Term, Float[Array, "N 2"]]:
        """(ITM, logits of the 3B pairs): each pair, each text with a wrong image, each image with a wrong text."""
        images, (texts, seen), fits, counts = matching.with_negatives(image_states, (ids, valid), negatives)
        logits = self.match(images, texts, seen, train=train)
        return matching.matching(logits, fits, counts), logits

    def writing(self, image_states: Array, ids: Array, valid: Array, predicted: Array, *, train: bool) -> Term:
        """LM: the mean over all predicted words."""
        logits = self.words(image_states, ids, valid, train=train)
        return next_token(logits, ids, predicted, smoothing=self.smoothing)

    # ---------------------------------------------------------------- generation

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """The begin token with the lead, or with what a batch's `ids` say instead (their first token is replaced; they
        end where the text goes on)."""
        if "ids" in batch:
            return begun(batch["ids"], self.dec_id), jnp.asarray(batch["valid"])
        ids = jnp.asarray([[self.dec_id, *self.lead]], jnp.int32)
        ids = jnp.broadcast_to(ids, (len(batch["image"]), ids.shape[1]))
        return ids, jnp.ones(ids.shape, bool)

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """See decoders/generate.py."""
        context = self.encode_states_image(batch["image"])
        return prefill(self.txt, WRITES, ids, valid, context, None, room)

    def decode(self, ids: Array, filled: Array) -> Float[Array, "R V"]:
        """See decoders/generate.py."""
        return decode(self.txt, WRITES, ids, filled)

    def generate(self, batch: Batch, settings: Settings) -> dict[str, Array]:
        """Captions (evals/base.py)."""
        return write(self, batch, settings)

    # ---------------------------------------------------------------- for the trainer

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text."""
        batch = base.example(rows, self.img.image_size, length or self.txt.length)
        return {**batch, "image_id": jax.ShapeDtypeStruct((rows,), jnp.int32)} if self.by_id else batch

    def constrain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps τ between its bounds, after every update."""
        params = dict(params)
        if self.bounds is not None and "tau" in params:
            params["tau"] = jnp.clip(params["tau"], *self.bounds)
        return params


# ---------------------------------------------------------------- parts that the other tasks share


def unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Rows of unit length, float32."""
    x = x.astype(jnp.float32)
    return constrain(x / jnp.linalg.norm(x, axis=-1, keepdims=True), "batch", None)


def begun(ids: Ids, first: int | None) -> Integer[Array, "B T"]:
    """The ids with another first token."""
    ids = jnp.asarray(ids)
    return ids if first is None else ids.at[:, 0].set(first)


def prefill(
    txt: Bert, mode: str, ids: Array, valid: Array, context: Array, context_valid: Array | None, room: int
) -> tuple[Float[Array, "B V"], Integer[Array, "B"]]:
    """Reads a prompt, padded on the right, into a new cache: (logits of the token after it, its length)."""
    x = txt(ids, valid, context, context_valid, causal=True, mode=mode, slots=Slots(size=room))
    length = jnp.asarray(valid).sum(axis=1, dtype=jnp.int32)
    return txt.logits(jnp.take_along_axis(x, length[:, None, None] - 1, axis=1))[:, 0], length


def decode(txt: Bert, mode: str, ids: Array, filled: Array) -> Float[Array, "R V"]:
    """Logits of the token after one more."""
    return txt.logits(txt(ids[:, None], None, mode=mode, slots=Slots(filled)))[:, 0]
