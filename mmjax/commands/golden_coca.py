"""CoCa's fixtures: open_clip's inputs in, its outputs out, through public methods of the system."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import systems
from mmjax.commands import models
from mmjax.commands.golden import META, Arrays, Runner, Unable
from mmjax.core import trees
from mmjax.core.types import Batch, total
from mmjax.decoders.generate import generate
from mmjax.decoders.settings import Settings
from mmjax.systems.coca import CoCa
from mmjax.weights import families, files, surgery

# Output of a fixture -> how it follows; float images are taken as normalised.
OUTPUTS: dict[str, Callable[[CoCa, Batch], Any]] = {
    "image_features": lambda m, b: m.embed_image(b["image"]),
    "text_features": lambda m, b: m.embed_text(b["ids"], b["valid"]),
    "image_embs": lambda m, b: m.see(b["image"]).tokens,
    "token_embs": lambda m, b: m.read(b["ids"], b["valid"]).tokens,
    "logits": lambda m, b: m.caption_logits(b)[:, :-1],
    "logits_full": lambda m, b: m.caption_logits(b),
    "labels": lambda m, b: b["ids"][:, 1:],
    "logit_scale": lambda m, b: jnp.exp(m.log_scale),
    "loss_contrastive": lambda m, b: _weighted(m, b, "contrastive"),
    "loss_caption": lambda m, b: _weighted(m, b, "caption"),
    "loss_total": lambda m, b: total(m.losses(b, train=False)),
}
NEEDS_TEXT = set(OUTPUTS) - {"image_features", "image_embs", "logit_scale"}


def _weighted(model: CoCa, batch: Batch, name: str) -> jax.Array:
    term = model.losses(batch, train=False)[name]
    return term.weight * term.mean


class CocaRunner:
    """A published CoCa checkpoint with the outputs that fixtures ask of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.loaded = surgery.load(folder, models.shapes)
        self.model: Any = systems.build({**self.loaded.system, "dtype": "float32"})
        self.tasks = files.read_json(folder / META)["tasks"]

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs among `wanted` that CoCa has.

        Raises:
          Unable: an input that it does not know, or one that is missing.
        """
        if unknown := sorted(set(inputs) - {"image", "text"}):
            raise Unable(f"inputs that CoCa does not take: {', '.join(unknown)}; known: image, text")
        chosen = {name: OUTPUTS[name] for name in wanted if name in OUTPUTS}
        grads = any(name.startswith("grad.") for name in wanted)
        if "image" not in inputs or ("text" not in inputs and (grads or NEEDS_TEXT & set(chosen))):
            raise Unable(f"task {task!r} needs the inputs image and text")
        variables, batch = jax.tree.map(jnp.asarray, self.loaded.variables), self._batch(inputs)

        def forward(model: CoCa, batch: Batch) -> dict[str, Any]:
            return {name: compute(model, batch) for name, compute in chosen.items()}

        made = jax.jit(lambda v, b: self.model.apply(v, b, method=forward))(variables, batch)
        if "ids" in wanted:
            made["ids"] = self._greedy(self.tasks[task].get("description", ""), variables, batch)
        if grads:
            made |= self._gradients(variables, batch)
        return made

    def _greedy(self, description: str, variables: Mapping[str, Any], batch: Batch) -> np.ndarray:
        """int[B, L] as open_clip returns them: begin token first; behind a row's end or padding token, padding.

        The task's description gives the settings in words: start, end, pad, seq_len and min_seq_len.

        Raises:
          Unable: it lacks one of them.
        """
        found = dict(re.findall(r"\b(start|end|pad|seq_len|min_seq_len) (\d+)", description))
        if lacks := [key for key in ("start", "end", "pad", "seq_len", "min_seq_len") if key not in found]:
            raise Unable(f"greedy ids: the description of the task does not say {', '.join(lacks)}")
        start, end, pad, longest, shortest = (int(found[k]) for k in ("start", "end", "pad", "seq_len", "min_seq_len"))
        rows = len(batch["image"])
        prompt = {"ids": jnp.full((rows, 1), start, jnp.int32), "valid": jnp.ones((rows, 1), bool)}
        how = Settings(max_length=longest - 1, min_length=shortest, end_ids=(end,))
        run = jax.jit(generate, static_argnums=(0, 3))
        texts = run(self.model, variables, {**batch, **prompt}, how)
        ids = [row[:n].tolist() for row, n in zip(np.asarray(texts.ids), np.asarray(texts.length), strict=True)]
        # A padding token ends a row there, and only the end token waits for min_seq_len; the last place is given.
        ids = [row[: row.index(pad) + 1] if pad in row else row for row in ids]
        ids = [row if row[-1] in (end, pad) else [*row, end] for row in ids]
        length = max(len(row) for row in ids)
        return np.array([row + [pad] * (length - len(row)) for row in ids])

    @staticmethod
    def _batch(inputs: Arrays) -> dict[str, jax.Array]:
        """Images NCHW and ids as a batch of ours; which ids are padding is the system's `pad_id`."""
        batch = {"image": jnp.asarray(inputs["image"].transpose(0, 2, 3, 1))}  # NCHW -> NHWC
        if "text" in inputs:
            ids = jnp.asarray(inputs["text"], jnp.int32)
            batch |= {"ids": ids, "valid": jnp.ones_like(ids, bool)}
        return batch

    def _gradients(self, variables: Mapping[str, Any], batch: Batch) -> dict[str, np.ndarray]:
        """Gradients of the whole loss under the checkpoint's own names and shapes."""

        def loss(params: Any) -> jax.Array:
            terms: Any = self.model.apply({"params": params}, batch, train=False, method="losses")
            return total(terms)

        gradient = trees.flatten({"params": jax.jit(jax.grad(loss))(variables["params"])})
        published = families.table_of(self.loaded.system, self.loaded.origin).published(gradient)
        return {f"grad.{key}": value for key, value in published.items()}


def open_coca(folder: pathlib.Path) -> Runner:
    """The runner of a folder with a CoCa checkpoint."""
    return CocaRunner(folder)
