"""A small system that writes: BERT's decoder that looks at a picture's states, given as the batch's `image`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core import sharding as shd
from mmjax.encoders.bert import Bert
from mmjax.nn.cache import Slots

VOCAB, END = 23, 4


class TinyWriter(nn.Module):
    """Prompts are `ids`, `valid`; contexts `image` float[B, S, E] with `seen` bool[B, S]."""

    txt: nn.Module
    end_ids: tuple[int, ...] = (END,)

    def __call__(self, batch):
        return self.logits(batch, batch["ids"], batch["valid"])

    def logits(self, batch, ids, valid):
        return self.txt.logits(self.txt(ids, valid, batch["image"], batch["seen"], causal=True, mode="dec"))

    def prompt(self, batch):
        return batch["ids"], batch["valid"]

    def prefill(self, batch, ids, valid, room):
        slots = Slots(size=room)
        x = self.txt(ids, valid, batch["image"], batch["seen"], causal=True, mode="dec", slots=slots)
        length = valid.sum(axis=1, dtype=jnp.int32)
        end = jnp.take_along_axis(x, length[:, None, None] - 1, axis=1)
        return self.txt.logits(end)[:, 0], length

    def decode(self, ids, filled):
        return self.txt.logits(self.txt(ids[:, None], None, mode="dec", slots=Slots(filled)))[:, 0]


def make(seed: int = 0, scale: float = 0.4, **options):
    """(system, variables) with random parameters that do not write one word for ever."""
    txt = Bert(VOCAB, 24, 16, depth=2, heads=2, cross_from=0, lm_head=True, types=0, **options)
    system = TinyWriter(txt)
    params = shd.unbox(jax.jit(system.init)(jax.random.key(seed), batch()))["params"]
    rng = np.random.default_rng(seed)
    noise = jax.tree.map(lambda x: x + jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), params)
    return system, {"params": noise}


def batch(rows: int = 3, seed: int = 0):
    """Prompts of 3, 1 and 2 tokens (and so on), padded on the right; contexts of which a part is to be seen."""
    rng = np.random.default_rng(seed)
    length = np.array([3, 1, 2] * rows)[:rows]
    return {
        "ids": rng.integers(5, VOCAB, (rows, 3)).astype(np.int32),
        "valid": np.arange(3)[None] < length[:, None],
        "image": rng.normal(size=(rows, 5, 12)).astype(np.float32),
        "seen": np.arange(5)[None] < rng.integers(2, 6, (rows, 1)),
        "seed": rng.integers(0, 1000, rows).astype(np.uint32),
    }
