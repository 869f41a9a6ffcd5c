"""ALBEF's fine-tuned forms besides retrieval (Li et al. 2021, §4): answers to questions by a decoder, ranked or trained
with a teacher; and classes of a text with one image (SNLI-VE) or two (NLVR2)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32, Integer

from mmjax.core.types import Batch, Term
from mmjax.encoders.bert import Bert, self_mask
from mmjax.losses.lm import next_token_sums
from mmjax.losses.mlm import token_losses
from mmjax.nn.dense import Dense, normal, torch_uniform
from mmjax.nn.patch import AnyArray, normalise
from mmjax.nn.transformer import Block, BlockSpec, Inputs, LayerInputs, remat_policy
from mmjax.systems import base
from mmjax.systems.clip import MEAN, STD


class ALBEFAnswers(nn.Module):
    """Questions about images, answered word by word (VQA).

    Attributes:
      img: a ViT; txt: all layers of BERT over question and image; dec: causal layers that look at these states.
      alpha, alpha_steps, mean, std: see ALBEF.
    """

    img: nn.Module
    txt: Bert
    dec: Bert
    alpha: float = 0.4
    alpha_steps: int = 0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def question_states(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T D"]:
        """The question after it has looked at the image."""
        image = self.img(normalise(batch["image"], self.mean, self.std), train=train).tokens
        return self.txt(batch["ids"], batch["valid"], image, train=train)

    def answer_logits(
        self,
        states: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"],
        answer_ids: Integer[AnyArray, "B A L"],
        answer_valid: Bool[AnyArray, "B A L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B A L V"]:
        """Logits of the next word at each place of each of a question's answers."""
        B, A, L = answer_ids.shape
        states, valid = (jnp.repeat(jnp.asarray(x), A, axis=0) for x in (states, valid))  # [B*A, ...]
        ids, seen = answer_ids.reshape(B * A, L), answer_valid.reshape(B * A, L)
        logits = self.dec.logits(self.dec(ids, seen, states, valid, causal=True, train=train))
        return logits.reshape(B, A, L, -1)

    def teach(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """`logits` float32[B, A, L, V] of the momentum model."""
        states = self.question_states(batch, train=train)
        answers = (jnp.asarray(batch["answer_ids"]), jnp.asarray(batch["answer_valid"]))
        return {"logits": self.answer_logits(states, batch["valid"], *answers, train=train)}

    def losses(
        self, batch: Batch, *, train: bool, taught: Mapping[str, Array] | None = None, step: Array | None = None
    ) -> dict[str, Term]:
        """Of each answer the sum over its words, times its weight; over the questions. `taught`: as in ALBEF, but
        without a teacher nothing is distilled."""
        states = self.question_states(batch, train=train)
        ids, valid = jnp.asarray(batch["answer_ids"]), jnp.asarray(batch["answer_valid"])
        logits = self.answer_logits(states, batch["valid"], ids, valid, train=train)
        B, A, L, V = logits.shape
        teacher = None if taught is None else taught["logits"].reshape(B * A, L, V)
        rows = logits.reshape(B * A, L, V), ids.reshape(B * A, L), valid.reshape(B * A, L)
        sums, _ = next_token_sums(*rows, taught=teacher, alpha=base.grown(self.alpha, self.alpha_steps, step))
        weighted = sums.reshape(B, A) * jnp.asarray(batch["answer_weight"])
        return {"answer": Term(weighted.sum(), jnp.asarray(B, jnp.float32))}

    def rank_answers(
        self, batch: Batch, answer_ids: Integer[AnyArray, "A L"], answer_valid: Bool[AnyArray, "A L"], k: int
    ) -> dict[str, Array]:
        """Of the candidates the k whose first word is likeliest, by the whole answer: `index` int32[B, k], best first,
        and `score` float32[B, k] = log p(first word) + log p(answer), in which the first word counts twice, as in the
        released code.
        """
        states = self.question_states(batch)
        valid = jnp.asarray(batch["valid"])
        answer_ids, answer_valid = jnp.asarray(answer_ids), jnp.asarray(answer_valid)
        first = jax.nn.log_softmax(self.first_logits(states, valid, answer_ids), axis=-1)[:, answer_ids[:, 1]]
        best, chosen = lax.top_k(first, k)  # [B, k]
        ids, seen = answer_ids[chosen], answer_valid[chosen]  # [B, k, L]
        logits = self.answer_logits(states, valid, ids, seen)
        B, K, L, V = logits.shape
        sums, _ = next_token_sums(logits.reshape(B * K, L, V), ids.reshape(B * K, L), seen.reshape(B * K, L))
        score, order = lax.top_k(best - sums.reshape(B, K), k)
        return {"index": jnp.take_along_axis(chosen, order, axis=1).astype(jnp.int32), "score": score}

    def first_logits(
        self, states: Float[Array, "B T D"], valid: Bool[Array, "B T"], answer_ids: Integer[Array, "A L"]
    ) -> Float[Array, "B V"]:
        """Logits of an answer's first word, after the begin token of the candidates."""
        begin: Int32[Array, "B 1 1"] = jnp.broadcast_to(answer_ids[0, 0], (len(states), 1, 1)).astype(jnp.int32)
        return self.answer_logits(states, valid, begin, jnp.ones(begin.shape, bool))[:, 0, 0]

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a question."""
        return base.answers_example(rows, self.img.image_size, length or self.txt.length, self.dec.length)


class ALBEFClasses(nn.Module):
    """A text and what it says of one image (entailment) or of two (true or not), as a class.

    Attributes:
      img: a ViT; txt: all layers of BERT, or for two images those below the cross-attention.
      classes: C; twin: None, or for two images the layers above.
      alpha, alpha_steps, mean, std: see ALBEF.
    """

    img: nn.Module
    txt: Bert
    classes: int
    twin: nn.Module | None = None
    alpha: float = 0.4
    alpha_steps: int = 0
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        width = self.txt.width
        self.fc1 = Dense(width, ("embed", None), True, torch_uniform, dtype=self.dtype)
        self.fc2 = Dense(self.classes, ("embed", None), True, torch_uniform, dtype=self.dtype)

    def states(self, batch: Batch, *, train: bool = False) -> Float[Array, "B T D"]:
        """The text after it has looked at its image, or at both."""
        image = jnp.asarray(batch["image"])
        one = normalise(image.reshape(-1, *image.shape[-3:]), self.mean, self.std)  # [B*I, Y, X, C]
        tokens = self.img(one, train=train).tokens  # [B*I, P, D]
        if self.twin is None:
            return self.txt(batch["ids"], batch["valid"], tokens, train=train)
        tokens = tokens.reshape(*image.shape[:2], *tokens.shape[1:])  # [B, I, P, D]
        x = self.txt.encode(batch["ids"], batch["valid"], train=train)
        return self.twin(x, batch["valid"], tokens, train=train)

    def logits(self, batch: Batch, *, train: bool = False) -> Float[Array, "B C"]:
        """Of the classes, from the first token."""
        x = jax.nn.relu(self.fc1(self.states(batch, train=train)[:, 0]))
        return self.fc2(x).astype(jnp.float32)

    def teach(self, batch: Batch, *, train: bool) -> dict[str, Array]:
        """`logits` float32[B, C] of the momentum model."""
        return {"logits": self.logits(batch, train=train)}

    def losses(
        self, batch: Batch, *, train: bool, taught: Mapping[str, Array] | None = None, step: Array | None = None
    ) -> dict[str, Term]:
        """Cross-entropy with the label, mixed with that of the teacher's classes if there is a teacher."""
        logits, label = self.logits(batch, train=train)[:, None], jnp.asarray(batch["label"])[:, None]
        teacher = None if taught is None else taught["logits"][:, None]
        alpha = base.grown(self.alpha, self.alpha_steps, step)
        return {
            "classes": Term(token_losses(logits, label, taught=teacher, alpha=alpha).sum(), jnp.float32(len(label)))
        }

    def __call__(self, batch: Batch, *, train: bool = False) -> dict[str, Term]:
        return self.losses(batch, train=train)

    def example(self, rows: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of so many rows; `length`: tokens of a text."""
        size, images = self.img.image_size, () if self.twin is None else (2,)
        batch = base.example(rows, size, length or self.txt.length)
        image = jax.ShapeDtypeStruct((rows, *images, size, size, 3), jnp.uint8)
        return {**batch, "image": image, "label": jax.ShapeDtypeStruct((rows,), jnp.int32)}


class Twin(nn.Module):
    """Layers in pairs, the first of which looks at image 0 and the second at image 1, through the same keys and values.

    Parameters: `block_i`, and `k_j`, `v_j` of pair j. Source: Li et al. 2021 (ALBEF), §4 and figure 3.

    Attributes:
      depth: layers, twice the pairs; spec: what they are made of.
    """

    spec: BlockSpec
    depth: int
    remat: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        valid: Bool[AnyArray, "B T"],
        images: Float[Array, "B 2 P E"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T D"]:
        s, width = self.spec, x.shape[-1]
        policy = remat_policy(self.remat)
        block: Any = Block if policy is None else nn.remat(Block, policy=policy)
        inputs = Inputs(mask=self_mask(valid, False))
        for pair in range(self.depth // 2):
            maps = [
                Dense(width, ("embed", "heads"), True, normal(0.02), dtype=s.dtype, name=f"{part}_{pair}")
                for part in "kv"
            ]
            for which in range(2):
                layer = LayerInputs(context_kv=tuple(make(images[:, which]) for make in maps))
                x = block(s, train, name=f"block_{2 * pair + which}")(x, layer, inputs)
        return x
