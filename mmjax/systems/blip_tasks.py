"""BLIP's forms for questions about images, answered by generation or by ranking, and for pairs of images (Li et al.
2022, §4 and appendix)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from mmjax.core.types import Batch, Term
from mmjax.decoders.generate import write
from mmjax.decoders.settings import Settings
from mmjax.encoders.bert import Bert, self_mask
from mmjax.losses.lm import next_token_sums
from mmjax.losses.mlm import token_losses
from mmjax.nn.dense import Dense, torch_uniform
from mmjax.nn.patch import normalise
from mmjax.nn.transformer import Inputs, Transformer
from mmjax.systems import base
from mmjax.systems.blip import WRITES, begun, decode, prefill
from mmjax.systems.clip import MEAN, STD


class BLIPAnswers(nn.Module):
    """Questions about images, answered word by word (VQA).

    Attributes:
      img: a ViT; txt: all layers of BERT over question and image; dec: causal layers that look at these states, with
        weights of their own.
      dec_id, enc_id, end_ids, smoothing, mean, std: see BLIP.
    """

    img: nn.Module
    txt: Bert
    dec: Bert
    dec_id: int = 30_522
    enc_id: int | None = 30_523
    end_ids: tuple[int, ...] = (102,)
    smoothing: float = 0.1
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def question_states(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T D"]:
        """The question after it has looked at the image."""
        image = self.img(normalise(batch["image"], self.mean, self.std), train=train).tokens
        return self.txt(begun(batch["ids"], self.enc_id), batch["valid"], image, train=train)

    def answer_logits(
        self,
        states: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        answer_ids: Integer[Array, "B A L"],
        answer_valid: Bool[Array, "B A L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B A L V"]:
        """Logits of the next word at each place of each of a question's answers."""
        B, A, L = answer_ids.shape
        states, valid = (jnp.repeat(jnp.asarray(x), A, axis=0) for x in (states, valid))  # [B*A, ...]
        ids, seen = begun(answer_ids.reshape(B * A, L), self.dec_id), answer_valid.reshape(B * A, L)
        x = self.dec(ids, seen, states, valid, causal=True, mode=WRITES, train=train)
        return self.dec.logits(x).reshape(B, A, L, -1)

    def answer_sums(
        self, states: Array, valid: Array, answer_ids: Array, answer_valid: Array, *, train: bool = False
    ) -> Float[Array, "B A"]:
        """Of each answer the sum of its words' (smoothed) losses."""
        logits = self.answer_logits(states, valid, answer_ids, answer_valid, train=train)
        B, A, L, V = logits.shape
        rows = logits.reshape(B * A, L, V), answer_ids.reshape(B * A, L), answer_valid.reshape(B * A, L)
        return next_token_sums(*rows, smoothing=self.smoothing)[0].reshape(B, A)

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Of each answer the sum over its words, times its weight; over the questions."""
        states = self.question_states(batch, train=train)
        answers = jnp.asarray(batch["answer_ids"]), jnp.asarray(batch["answer_valid"])
        sums = self.answer_sums(states, jnp.asarray(batch["valid"]), *answers, train=train)
        return {"answer": Term((sums * jnp.asarray(batch["answer_weight"])).sum(), jnp.float32(len(sums)))}

    def rank_answers(
        self, batch: Batch, answer_ids: Integer[Array, "A L"], answer_valid: Bool[Array, "A L"], k: int
    ) -> dict[str, Array]:
        """Of the candidates the k whose first word is likeliest, by the whole answer: `index` int32[B, k], best first,
        and `score` float32[B, k], minus the summed loss."""
        states, valid = self.question_states(batch), jnp.asarray(batch["valid"])
        answer_ids, answer_valid = jnp.asarray(answer_ids), jnp.asarray(answer_valid)
        begin = jnp.full((len(states), 1, 1), self.dec_id, jnp.int32)
        first = self.answer_logits(states, valid, begin, jnp.ones(begin.shape, bool))[:, 0, 0]  # [B, V]
        chosen = lax.top_k(jax.nn.softmax(first, axis=-1)[:, answer_ids[:, 1]], k)[1]  # [B, k]
        score, order = lax.top_k(-self.answer_sums(states, valid, answer_ids[chosen], answer_valid[chosen]), k)
        return {"index": jnp.take_along_axis(chosen, order, axis=1).astype(jnp.int32), "score": score}

    def prompt(self, batch: Batch) -> tuple[Array, Array]:
        """The begin token of an answer."""
        ids = jnp.full((len(batch["ids"]), 1), self.dec_id, jnp.int32)
        return ids, jnp.ones(ids.shape, bool)

    def prefill(self, batch: Batch, ids: Array, valid: Array, room: int) -> tuple[Array, Array]:
        """See decoders/generate.py. A question's padding is seen, too, as in the released code."""
        return prefill(self.dec, WRITES, ids, valid, self.question_states(batch), None, room)

    def decode(self, ids: Array, filled: Array) -> Float[Array, "R V"]:
        """See decoders/generate.py."""
        return decode(self.dec, WRITES, ids, filled)

    def generate(self, batch: Batch, settings: Settings) -> dict[str, Array]:
        """Answers (evals/base.py)."""
        return write(self, batch, settings)

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a question."""
        return base.answers_example(rows, self.img.image_size, length or self.txt.length, self.dec.length)


class BLIPPairs(nn.Module):
    """A text and whether it is true of two images (NLVR2): every layer looks at both, with an attention for each.

    Attributes:
      img: a ViT; txt: BERT's embeddings (no layers); lower: layers that take the mean of both looks; upper: layers that
        merge them by a linear map.
      classes: C; enc_id, mean, std: see BLIP.
    """

    img: nn.Module
    txt: Bert
    lower: Transformer
    upper: Transformer
    classes: int = 2
    enc_id: int | None = 30_523
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.fc1 = Dense(self.txt.width, ("embed", None), True, torch_uniform, dtype=self.dtype)
        self.fc2 = Dense(self.classes, ("embed", None), True, torch_uniform, dtype=self.dtype)

    def states(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T D"]:
        """The text after it has looked at both images."""
        image = jnp.asarray(batch["image"])
        both = normalise(image.reshape(-1, *image.shape[2:]), self.mean, self.std)  # [B*I, Y, X, C]
        tokens = self.img(both, train=train).tokens  # [B*I, P, D]
        tokens = tokens.reshape(*image.shape[:2], *tokens.shape[1:])  # [B, I, P, D]
        x = self.txt.embed_ids(begun(batch["ids"], self.enc_id), train=train)
        inputs = Inputs(mask=self_mask(batch["valid"], False), context=tokens)
        return self.upper(self.lower(x, inputs, train=train), inputs, train=train)

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B C"]:
        """Of the classes, from the first token."""
        x = jax.nn.relu(self.fc1(self.states(batch, train=train)[:, 0]))
        return self.fc2(x).astype(jnp.float32)

    def losses(self, batch: Batch, *, train: bool) -> dict[str, Term]:
        """Cross-entropy with the label."""
        each = token_losses(self.logits(batch, train=train)[:, None], jnp.asarray(batch["label"])[:, None])
        return {"classes": Term(each.sum(), jnp.float32(len(each)))}

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text."""
        size = self.img.image_size
        image = jax.ShapeDtypeStruct((rows, 2, size, size, 3), jnp.uint8)
        batch: Mapping[str, Any] = base.example(rows, size, length or self.txt.length)
        return {**batch, "image": image, "label": jax.ShapeDtypeStruct((rows,), jnp.int32)}
