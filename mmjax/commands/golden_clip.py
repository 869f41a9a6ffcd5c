"""CLIP's and SigLIP's fixtures: the publishers' inputs in, their outputs out, through public methods of the system."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import systems
from mmjax.commands import models
from mmjax.commands.golden import Arrays, Runner, Unable
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.padding import check_right_padded
from mmjax.core.types import Batch, total
from mmjax.data.tokenizers import ClipBPE
from mmjax.losses.fixtures import run_loss
from mmjax.systems.clip import CLIP
from mmjax.weights import clip_config, families, files, surgery

IMAGES, TEXTS = ("pixel_values", "image", "images"), ("input_ids", "text", "texts")


def valid_until_end(ids: np.ndarray, eos_id: int | None) -> np.ndarray:
    """bool[B, T]: True up to and with the token at which the publisher reads the text.

    Args:
      ids: int[B, T].
      eos_id: the first position of this id; None: the first position of the largest id of the row.
    """
    end = np.argmax(ids if eos_id is None else ids == eos_id, axis=1)  # [B]
    return np.arange(ids.shape[1])[None] <= end[:, None]


class ClipRunner:
    """A published CLIP checkpoint with the outputs that fixtures ask of it, each computed once a task."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.loaded = surgery.load(folder, models.shapes)
        self.model = self._build()
        origin = self.loaded.origin
        self.eos_id = clip_config.eos_id(origin.config, origin.layout)

    def _build(self, **txt: Any) -> Any:
        system = self.loaded.system
        return systems.build({**system, "dtype": "float32", "txt": {**system["txt"], **txt}})

    @staticmethod
    def _text(inputs: Arrays) -> str | None:
        return next((name for name in TEXTS if name in inputs), None)

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs among `wanted` that CLIP has.

        Raises:
          Unable: an input that it does not know, or one that is missing.
        """
        batch, variables = self._batch(inputs), jax.tree.map(jnp.asarray, self.loaded.variables)
        chosen = {name: OUTPUTS[name] for name in wanted if name in OUTPUTS}
        for name, (needs, _) in chosen.items():
            if absent := [key for key in needs if key not in batch]:
                raise Unable(f"task {task!r}: the output {name!r} needs the input {absent[0]!r}")

        def forward(model: CLIP, batch: Batch) -> dict[str, Any]:
            return {name: compute(model, batch) for name, (_, compute) in chosen.items()}

        made = jax.jit(lambda v, b: self.model.apply(v, b, method=forward))(variables, batch)
        if any(name.startswith("grad.") for name in wanted):
            made |= {f"grad.{key}": value for key, value in self._gradients(variables, batch).items()}
        return made

    def _batch(self, inputs: Arrays) -> dict[str, jax.Array]:
        """The reference's inputs (images NCHW, normalised) as a batch of ours."""
        known = {*IMAGES, *TEXTS, "attention_mask"}
        if unknown := sorted(set(inputs) - known):
            raise Unable(f"inputs that CLIP does not take: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        batch = {}
        for name in IMAGES:
            if name in inputs:
                batch["image"] = jnp.asarray(inputs[name].transpose(0, 2, 3, 1))  # NCHW -> NHWC
        for name in TEXTS:
            if name in inputs:
                valid = valid_until_end(inputs[name], self.eos_id)
                batch |= {"ids": jnp.asarray(inputs[name], jnp.int32), "valid": jnp.asarray(valid)}
        kept = inputs.get("attention_mask", 1)
        if "attention_mask" in inputs:
            try:
                check_right_padded(kept, "attention_mask")
            except UserError as error:
                raise Unable(str(error)) from error
        if not self.loaded.system["txt"].get("causal", True):  # every token sees all others that the mask leaves
            seen = np.broadcast_to(np.asarray(kept, bool), inputs[text].shape) if (text := self._text(inputs)) else None
            self.model = self._build(mask_padding=seen is not None and not seen.all())
            return batch if seen is None else {**batch, "valid": jnp.asarray(seen)}
        # What follows the end token is behind the causal mask: masking it changes no pooled state.
        if "valid" in batch and (np.asarray(batch["valid"]) & (kept == 0)).any():
            raise Unable("attention_mask hides tokens before the end token")
        return batch

    def _gradients(self, variables: Mapping[str, Any], batch: Batch) -> dict[str, np.ndarray]:
        """Gradients of the loss under the checkpoint's own names and shapes."""
        if absent := sorted({"image", "ids"} - set(batch)):
            raise Unable(f"gradients of the loss need the input {absent[0]!r}")
        rest = {key: value for key, value in variables.items() if key != "params"}

        def loss(params: Any) -> jax.Array:
            terms: Any = self.model.apply({**rest, "params": params}, batch, train=False, method="losses")
            return total(terms)

        gradient = trees.flatten({"params": jax.jit(jax.grad(loss))(variables["params"])})
        return families.table_of(self.loaded.system, self.loaded.origin).published(gradient)


_IMAGE, _TEXT, _BOTH = ("image",), ("ids",), ("image", "ids")
# Output of a fixture -> (what it needs of the batch, how it follows); float images are taken as normalised.
OUTPUTS: dict[str, tuple[tuple[str, ...], Callable[[CLIP, Batch], Any]]] = {
    "image_features": (_IMAGE, lambda m, b: m.encode_image(b["image"])),
    "text_features": (_TEXT, lambda m, b: m.encode_text(b["ids"], b["valid"])),
    "image_embeds": (_IMAGE, lambda m, b: m.embed_image(b["image"])),
    "text_embeds": (_TEXT, lambda m, b: m.embed_text(b["ids"], b["valid"])),
    "logits_per_image": (_BOTH, lambda m, b: m.logits(b)),
    "logits_per_text": (_BOTH, lambda m, b: m.logits(b).T),
    "logit_scale": ((), lambda m, b: jnp.exp(m.log_scale)),
    "loss": (_BOTH, lambda m, b: total(m.losses(b, train=False))),
    "vision_last_hidden_state": (_IMAGE, lambda m, b: m.img(b["image"]).tokens),
    "vision_pooled": (_IMAGE, lambda m, b: m.img(b["image"]).pooled),
    "text_last_hidden_state": (_TEXT, lambda m, b: m.txt(b["ids"], b["valid"]).tokens),
    "text_pooled": (_TEXT, lambda m, b: m.txt(b["ids"], b["valid"]).pooled),
}


def open_clip_model(folder: pathlib.Path) -> Runner:
    """The runner of a folder with a CLIP checkpoint."""
    return ClipRunner(folder)


def open_loss(folder: pathlib.Path) -> Runner:
    """The runner of a loss: it has no weights, and its config names it."""
    name = str(files.read_json(folder / "config.json").get("loss"))
    return lambda task, inputs, wanted: run_loss(name, inputs)


def tokenize(folder: pathlib.Path, meta: Mapping[str, Any], cases: list[dict[str, Any]], name: str) -> list[Any]:
    """One output of every case of a tokenizer's table.

    Args:
      folder: holds the merges, `*.txt.gz` or `*.txt`; the packaged ones where it does not.
      meta: its config gives the context length and the special ids.
      cases: each with `text`.
      name: `encode`, `decode`, `ids` or `ids_context_<length>`.

    Raises:
      Unable: another output, or special ids that the tokenizer does not have.
    """
    merges = sorted([*folder.glob("*.txt.gz"), *folder.glob("*.txt")])
    tokenizer, config = ClipBPE(merges[0] if merges else None), meta.get("config", {})
    ours = {
        "vocab_size": tokenizer.vocab_size,
        "sot": tokenizer.bos_id,
        "eot": tokenizer.eos_id,
        "pad": tokenizer.pad_id,
    }
    if wrong := [key for key, value in ours.items() if config.get(key, value) != value]:
        raise Unable(f"the tokenizer has {ours}, the fixture other {', '.join(wrong)}: {config}")
    texts = [case["text"] for case in cases]
    if name == "encode":
        return [tokenizer.encode(text) for text in texts]
    if name == "decode":
        return [tokenizer.decode(tokenizer.encode(text)) for text in texts]
    if match := re.fullmatch(r"ids(?:_context_(\d+))?", name):
        length = int(match[1] or config.get("context_length", 77))
        return tokenizer.batch(texts, length)[0].tolist()
    raise Unable(f"mmjax does not compute the output {name!r} of a tokenizer")
