"""A system that reads grey values and numbers, so that every right answer is known; and tools to go with it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.data.tokenizers import WordPiece
from mmjax.evals.base import Predictor, Tools

VARIABLES: dict[str, Any] = {"params": {"unit": jnp.float32(1)}}
END = 99
WORDS = WordPiece.train(["0 1 2"] * 3, 20)  # for what holds a tokenizer; `tokenize` below reads any number


class Toy(nn.Module):
    """An image is its first pixel, a text its first number; they fit where the two are equal."""

    def setup(self) -> None:
        self.unit = self.param("unit", lambda _: jnp.float32(1))

    def _circle(self, x):
        angle = x.astype(jnp.float32) * self.unit / 100
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

    def embed_image(self, image):
        # 3 lies next to 4 and far from itself: what only a second look finds
        x = image[:, 0, 0, 0]
        return self._circle(jnp.where(x == 3, 4, x))

    def embed_text(self, ids, valid):
        return self._circle(ids[:, 0])

    def encode_states_image(self, image):
        return image[:, 0, 0, :1].astype(jnp.float32)[:, None] * self.unit

    def encode_states_text(self, ids, valid):
        return ids

    def match(self, image_states, text_states, valid):
        fits = -jnp.abs(image_states[:, 0, 0] - text_states[:, 0])
        return jnp.stack([jnp.full_like(fits, -0.5), fits], axis=1)

    def logits(self, batch):
        image = batch["image"].reshape(len(batch["image"]), -1, *batch["image"].shape[-3:])  # [B, I, Y, X, C]
        same = image[:, 0, 0, 0, 0] == (image[:, 1, 0, 0, 0] if image.shape[1] > 1 else batch["ids"][:, 0])
        return jnp.stack([jnp.where(same, 0.0, 1.0), jnp.where(same, 1.0, 0.0)], axis=1)

    def generate(self, batch, settings):
        """The image's number, then what the settings say, then the prompt's or question's first number."""
        rows = len(batch["image"])
        first = batch["ids"][:, 0] if "ids" in batch else jnp.zeros(rows, jnp.int32)
        ids = jnp.stack([batch["image"][:, 0, 0, 0].astype(jnp.int32), jnp.full(rows, settings), first], axis=1)
        return {"ids": ids, "valid": jnp.asarray([True, True, "ids" in batch])[None].repeat(rows, 0)}

    def rank_answers(self, batch, answer_ids, answer_valid, k):
        away = -jnp.abs(batch["image"][:, :1, 0, 0].astype(jnp.int32) - answer_ids[None, :, 0])
        order = jnp.argsort(-away, axis=1)[:, :k]
        return {"index": order.astype(jnp.int32), "score": jnp.take_along_axis(away, order, axis=1).astype(jnp.float32)}


def predictor(batch_size: int = 4) -> Predictor:
    return Predictor(Toy(), VARIABLES, batch_size=batch_size)


def tokenize(texts):
    """Numbers in a text, then END."""
    rows = [[*map(int, text.split()), END] for text in texts]
    ids = np.zeros((len(rows), 5), np.int32)
    valid = np.zeros((len(rows), 5), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], valid[i, : len(row)] = row, True
    return ids, valid


class Source(list):
    name = "toy"

    def class_names(self, lang=None):
        return ["no", "yes"]


def grey(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


def tools(examples: list[dict], how: int = 7) -> Tools:
    source = Source({"key": str(i), **example} for i, example in enumerate(examples))
    return Tools(lambda spec: source, lambda x: x, tokenize, decode=lambda ids: " ".join(map(str, ids)),
                 settings=lambda options: how)  # fmt: skip
