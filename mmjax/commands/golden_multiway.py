"""VLMo's, BEiT-3's and VQ-KD's fixtures: the publishers' inputs in, their outputs out.

A task is a function (model, inputs) -> outputs by the fixture's names. Gradients (`grad.<published name>`) are of the
output `loss` (or `loss_<task>`) of the same function.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import systems
from mmjax.commands import models
from mmjax.commands.golden import Arrays, Runner, Unable
from mmjax.core import trees
from mmjax.core.types import Term, total
from mmjax.losses import matching, mlm
from mmjax.losses.negatives import negative_weights
from mmjax.systems.vlmo import VLMo
from mmjax.weights import families, surgery

Inputs = Mapping[str, Any]
Task = Callable[[Any, Inputs], dict[str, Any]]


class TaskRunner:
    """A published checkpoint and the tasks that its system has."""

    def __init__(self, folder: pathlib.Path, tasks: Mapping[str, Task]) -> None:
        self.loaded, self.tasks = surgery.load(folder, models.shapes), tasks
        self.model: Any = systems.build({**self.loaded.system, "dtype": "float32"})

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs of a task.

        Raises:
          Unable: no such task, or an input that is missing.
        """
        if task not in self.tasks:
            raise Unable(
                f"mmjax has no task {task!r} of {self.loaded.system['name']!r}; it has {', '.join(self.tasks)}"
            )
        arrays = {name: _ours(array) for name, array in inputs.items()}
        variables = jax.tree.map(jnp.asarray, self.loaded.variables)
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def compute(params: Any, arrays: Inputs) -> dict[str, Any]:
            return self.model.apply({**rest, "params": params}, arrays, method=self.tasks[task])

        try:
            made = dict(jax.jit(compute)(params, arrays))
            if any(name.startswith("grad.") for name in wanted):
                loss = next(name for name in wanted if name.startswith("loss"))
                grads = jax.jit(jax.grad(lambda p: compute(p, arrays)[loss]))(params)
                table = families.table_of(self.loaded.system, self.loaded.origin)
                published = table.published(trees.flatten({"params": grads}))
                made |= {f"grad.{name}": value for name, value in published.items()}
        except KeyError as error:
            raise Unable(f"task {task!r} needs the input {error}") from error
        return made


def _ours(array: np.ndarray) -> jax.Array:
    """Images as [B, Y, X, C], whole numbers as int32."""
    if array.ndim == 4:
        return jnp.asarray(array.transpose(0, 2, 3, 1))
    return jnp.asarray(array, jnp.int32 if array.dtype.kind in "iu" else jnp.float32)


# ------------------------------------------------------------------------------------------------- VLMo


def _text(inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    return inputs["text_ids"], inputs["text_masks"] == 1


def _vlmo_image(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    features = model.encode_image(inputs["image"])
    (states,) = model.states(None, None, model.image_tokens(inputs["image"]))
    return {"image_feats": states, "cls_feats": features["img"], "cls_vlffn_feats": features.get("img_vl")}


def _vlmo_text(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _text(inputs)
    features = model.encode_text(ids, valid)
    (states,) = model.states(model.text_tokens(ids), valid, None)
    return {"text_feats": states, "cls_feats": features["txt"], "cls_vlffn_feats": features.get("txt_vl")}


def _vlmo_joint(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _text(inputs)
    states, T = model.fuse(inputs["image"], ids, valid), ids.shape[1]
    out = {"text_feats": states[:, :T], "image_feats": states[:, T:], "cls_feats": model.pooled(states)}
    out |= {"itm_logits": model.match(inputs["image"], ids, valid)} if "itm" in model.tasks else {}
    return out | ({"mlm_logits": model.word_logits(states[:, :T])} if "mlm" in model.tasks else {})


def _vlmo_contrast(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    features = model.encode_image(inputs["image"]) | model.encode_text(*_text(inputs))
    logits = jnp.exp(model.log_scale) * features["img"] @ features["txt"].T
    return {"loss_itc": total(model.contrast(features)), "itc_i2t_logits": logits}


def _vlmo_pretrain(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    image, (ids, valid), labels = inputs["image"], _text(inputs), inputs["mlm_labels"]
    out = _vlmo_contrast(model, inputs)
    logits = out["itc_i2t_logits"]
    there = jnp.ones(len(ids), bool)
    negatives = matching.Negatives(inputs["neg_image_idx"], inputs["neg_text_idx"], there, there)
    images, texts, fits, _ = matching.with_negatives(image, (ids, valid), negatives)
    match = model.match(images, *texts)
    words = model.word_logits(model.fuse(image, inputs["mlm_ids"], valid)[:, : ids.shape[1]])
    word_loss: Term = model.word_losses(image, ids, valid, inputs["mlm_ids"], labels >= 0, train=False)["mlm"]
    out["loss_itm"] = matching.matching(match, fits).mean
    out["loss_mlm"] = word_loss.weight * word_loss.mean
    return out | {
        "mlm_logits": words,
        "itm_logits": match.reshape(-1, 3, 2).swapaxes(0, 1).reshape(-1, 2),  # by kind instead of by row
        "loss_total": out["loss_itc"] + out["loss_itm"] + out["loss_mlm"],
        "neg_image_weights": negative_weights(logits.T),
        "neg_text_weights": negative_weights(logits),
    }


def _vlmo_text_mlm(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    (states,) = model.states(model.text_tokens(inputs["mlm_ids"]), inputs["text_masks"] == 1, None)
    logits, labels = model.word_logits(states), inputs["mlm_labels"]
    loss = mlm.masked_lm(logits, jnp.maximum(labels, 0), labels >= 0).mean
    return {"loss_mlm": loss, "mlm_logits": logits}


def _vlmo_vqa(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    batch = {"image": inputs["image"], **dict(zip(("ids", "valid"), _text(inputs), strict=True))}
    batch["target"] = inputs["targets"]
    states = model.fuse(batch["image"], batch["ids"], batch["valid"])
    logits = model.answer(batch["image"], batch["ids"], batch["valid"])
    return {"cls_feats": model.pooled(states), "logits": logits, "loss": total(model.losses(batch, train=False))}


def _vlmo_nlvr2(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _text(inputs)
    images = jnp.stack([inputs["image_0"], inputs["image_1"]], axis=1)
    batch = {"image": images, "ids": ids, "valid": valid, "label": inputs["answers"]}
    pooled = [model.pooled(model.fuse(images[:, i], ids, valid, kind=i + 1)) for i in (0, 1)]
    out = {f"cls_{i}": state for i, state in enumerate(pooled)}
    return out | {"logits": model.reason(images, ids, valid), "loss": total(model.losses(batch, train=False))}


def _vlmo_retrieval(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    features = model.encode_image(inputs["image"]) | model.encode_text(*_text(inputs))
    out = _vlmo_contrast(model, inputs)
    return {"image_feats": features["img"], "text_feats": features["txt"], "logits": out["itc_i2t_logits"],
            "loss": out["loss_itc"], **out}  # fmt: skip


VLMO: dict[str, Task] = {
    "image": _vlmo_image,
    "text": _vlmo_text,
    "joint": _vlmo_joint,
    "pretrain": _vlmo_pretrain,
    "textmlm": _vlmo_text_mlm,
    "itc_grad": _vlmo_contrast,
    "vqa": _vlmo_vqa,
    "nlvr2": _vlmo_nlvr2,
    "irtr": _vlmo_retrieval,
    "retrieval": _vlmo_retrieval,
}


def open_vlmo(folder: pathlib.Path) -> Runner:
    """The runner of a VLMo checkpoint."""
    return TaskRunner(folder, VLMO)
