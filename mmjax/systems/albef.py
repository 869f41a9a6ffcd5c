"""ALBEF: align before fuse, with a momentum teacher (Li et al. 2021, "Align before Fuse: Vision and Language
Representation Learning with Momentum Distillation"): pre-training and retrieval. Other tasks: albef_tasks.py."""

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
from mmjax.encoders.bert import Bert
from mmjax.losses import matching
from mmjax.losses.mlm import mask_tokens, masked_lm
from mmjax.losses.momentum import momentum_contrastive
from mmjax.losses.queue import PastFeatures
from mmjax.nn.dense import Dense, torch_uniform
from mmjax.nn.patch import AnyArray, normalise
from mmjax.systems import base
from mmjax.systems.clip import MEAN, STD

TASKS = ("itc", "itm", "mlm")
Image = UInt8[AnyArray, "B Y X C"] | Float[AnyArray, "B Y X C"]


class ALBEF(nn.Module):
    """An image encoder, a text encoder, and on top of them layers in which the text looks at the image.

    Attributes:
      img: a ViT whose tokens are normed; txt: BERT with cross-attention from its middle on.
      embed_dim: width E of the shared space.
      queue: rows of features of past steps that are candidates, too; 0: those of the batch alone.
      tasks: what is learned: "itc" (contrast), "itm" (matching, which needs it), "mlm" (masked words; without it, as
        for retrieval, `txt` needs no head).
      by_id: pairs of equal `image_id` are each other's positives (retrieval), else each pair is its own only.
      alpha: weight of the teacher's soft targets; grows linearly over the first `alpha_steps` steps of a stage.
      temperature, bounds: initial τ, a divisor, and between what it is kept; None leaves it free (retrieval).
      mask_id, mask_rate: of the masked words.
      hard_negatives: False draws matching's negatives evenly.
      mean, std: normalisation of uint8 images; float images are taken as normalised.
    """

    img: nn.Module
    txt: Bert
    embed_dim: int
    queue: int = 65_536
    tasks: tuple[str, ...] = TASKS
    by_id: bool = False
    alpha: float = 0.4
    alpha_steps: int = 0
    temperature: float = 0.07
    bounds: tuple[float, float] | None = (0.001, 0.5)
    mask_id: int = 103
    mask_rate: float = 0.15
    hard_negatives: bool = True
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32
    needs: ClassVar[Mapping[str, str]] = base.MATCHING_NEEDS

    # ---------------------------------------------------------------- parts

    def setup(self) -> None:
        def head(features: int) -> Dense:
            return Dense(features, ("embed", None), True, torch_uniform, dtype=self.dtype)

        self.img_proj, self.txt_proj, self.itm_head = head(self.embed_dim), head(self.embed_dim), head(2)
        self.tau = self.param("tau", nn.initializers.constant(self.temperature), (), jnp.float32)
        if self.queue:
            self.past = PastFeatures(self.queue, (("img", self.embed_dim), ("txt", self.embed_dim)), self.by_id)

    def encode_states_image(self, image: Image, *, train: bool = False) -> Float[Array, "B P D"]:
        """All tokens of an image, the class token first."""
        return self.img(normalise(image, self.mean, self.std), train=train).tokens

    def encode_states_text(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> Float[Array, "B T D"]:
        """A text's states before it has seen an image."""
        return self.txt.encode(ids, valid, train=train)

    def fuse(
        self,
        image_states: Float[Array, "B P E"],
        text_states: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        """The text's states after it has looked at the image."""
        return self.txt.fuse(text_states, valid, image_states, train=train)

    def match(
        self,
        image_states: Float[Array, "B P E"],
        text_states: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B 2"]:
        """Logits of (does not fit, fits), from states that were encoded once."""
        fused = self.fuse(image_states, text_states, valid, train=train)
        return self.itm_head(fused[:, 0]).astype(jnp.float32)

    def words(
        self,
        image_states: Float[Array, "B P E"],
        ids: Integer[AnyArray, "B T"],
        valid: Bool[AnyArray, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """Logits of the word at each place of a text, some words of which are hidden."""
        return self.txt.logits(self.txt(ids, valid, image_states, train=train))

    def features_of(self, image_states: Array, text_states: Array) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
        """Of unit length, from the first tokens."""
        return _unit(self.img_proj(image_states[:, 0])), _unit(self.txt_proj(text_states[:, 0]))

    def embed_image(self, image: Image, *, train: bool = False) -> Float[Array, "B E"]:
        """Image features of unit length, float32[B, E]."""
        return _unit(self.img_proj(self.encode_states_image(image, train=train)[:, 0]))

    def embed_text(
        self, ids: Integer[AnyArray, "B T"], valid: Bool[AnyArray, "B T"], *, train: bool = False
    ) -> Float[Array, "B E"]:
        """Text features of unit length, float32[B, E]."""
        return _unit(self.txt_proj(self.encode_states_text(ids, valid, train=train)[:, 0]))

    # ---------------------------------------------------------------- objective (§3.2, §3.3)

    def teach(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """What the momentum model says of a batch; the step calls this with the teacher's parameters, and `losses` with
        the student's, which learn from it: `img`, `txt` float32[B, E]; with masked words also `ids` with some of them
        hidden, which were `selected`, and their `logits`."""
        if "mlm" not in self.tasks:
            return self.taught(batch, train=train)
        valid = jnp.asarray(batch["valid"])
        eligible = valid & (jnp.arange(valid.shape[1]) > 0)[None]  # all but [CLS]; [SEP] may be selected
        options: dict[str, Any] = {"vocab": self.txt.vocab, "mask_id": self.mask_id, "rate": self.mask_rate}
        ids, selected = mask_tokens(base.stream_key(self, "masks"), jnp.asarray(batch["ids"]), eligible, **options)
        return self.taught(batch, ids, selected, train=train)

    def taught(
        self, batch: Batch, ids: Array | None = None, selected: Array | None = None, *, train: bool
    ) -> dict[str, Array]:
        """`teach` with the masked words given."""
        image_states = self.encode_states_image(batch["image"], train=train)
        text_states = self.encode_states_text(batch["ids"], batch["valid"], train=train)
        img, txt = self.features_of(image_states, text_states)
        if ids is None or selected is None:
            return {"img": img, "txt": txt}
        logits = self.words(image_states, ids, batch["valid"], train=train)
        return {"img": img, "txt": txt, "ids": ids, "selected": selected, "logits": logits}

    def losses(
        self, batch: Batch, *, train: bool, taught: Mapping[str, Array] | None = None, step: Array | None = None
    ) -> dict[str, Term]:
        """Contrast against the teacher's features and the queue, match with hard negatives, predict masked words.

        Args:
          batch: image, ids, valid; with `by_id` also image_id (else `index`, the example's number, stands for it).
          train: whether dropout acts and the queue takes in the teacher's features.
          taught: of `teach`; None: no teacher, so that contrast's other side is the model's own features, and α = 0.
          step: steps done, for α; None: α has its full value.
        """
        alpha = 0.0 if taught is None else base.grown(self.alpha, self.alpha_steps, step)
        taught = lax.stop_gradient(self.teach(batch, train=train) if taught is None else taught)
        image_states = self.encode_states_image(batch["image"], train=train)
        valid = jnp.asarray(batch["valid"])
        terms: dict[str, Term] = {}
        if "itc" in self.tasks:
            text_states = self.encode_states_text(batch["ids"], valid, train=train)
            img, txt = self.features_of(image_states, text_states)
            ids = base.picture_ids(batch) if self.by_id else None
            terms["itc"] = self.contrast(img, txt, taught, alpha, ids)
            if "itm" in self.tasks:
                negatives = self.negatives(base.stream_key(self, "negatives"), img, txt, taught, ids)
                terms["itm"] = self.matching(image_states, text_states, valid, negatives, train=train)[0]
            if train and self.queue:
                self.past.enter({name: taught[name] for name in ("img", "txt")}, ids)
        if "mlm" in self.tasks:
            logits = self.words(image_states, taught["ids"], valid, train=train)
            terms["mlm"] = masked_lm(
                logits, jnp.asarray(batch["ids"]), taught["selected"], taught=taught["logits"], alpha=alpha
            )
        return terms

    def contrast(
        self, img: Array, txt: Array, taught: Mapping[str, Array], alpha: Array | float, ids: Array | None = None
    ) -> Term:
        """ITC: the student's features against the teacher's, of the batch and of the queue."""
        past = self.past() if self.queue else None
        rows = {} if past is None else {"img_queue": past.features["img"], "txt_queue": past.features["txt"]}
        if past is not None and ids is not None:
            rows["queue_ids"] = past.ids
        return momentum_contrastive(img, txt, taught["img"], taught["txt"], self.tau, alpha, ids=ids, **rows)

    def negatives(
        self, key: jax.Array, img: Array, txt: Array, taught: Mapping[str, Array], ids: Array | None = None
    ) -> matching.Negatives:
        """Drawn by the contrastive similarities within the global batch."""
        img_logits, txt_logits = img @ taught["txt"].T / self.tau, txt @ taught["img"].T / self.tau
        return matching.draw(key, img_logits, txt_logits, ids, hard=self.hard_negatives)

    def matching(
        self, image_states: Array, text_states: Array, valid: Array, negatives: matching.Negatives, *, train: bool
    ) -> tuple[Term, Float[Array, "N 2"]]:
        """(ITM, logits of the 3B pairs): each pair, each text with a wrong image, each image with a wrong text."""
        images, (texts, seen), fits, counts = matching.with_negatives(image_states, (text_states, valid), negatives)
        logits = self.match(images, texts, seen, train=train)
        return matching.matching(logits, fits, counts), logits

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


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    x = x.astype(jnp.float32)
    return constrain(x / jnp.linalg.norm(x, axis=-1, keepdims=True), "batch", None)
