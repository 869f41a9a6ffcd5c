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
from mmjax.systems.beit3 import BEiT3
from mmjax.systems.vlmo import VLMo
from mmjax.systems.vqkd import CODEBOOK, VQKD
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
            variables = {**rest, "params": params}
            return self.model.apply(variables, arrays, method=self.tasks[task], mutable=list(rest))[0]

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


def _embedded(model: VLMo, image: jax.Array, ids: jax.Array, valid: jax.Array) -> tuple[jax.Array, ...]:
    """What `match` takes: the embedded image, the embedded text, and which of its tokens are there."""
    return model.encode_states_image(image), model.encode_states_text(ids, valid), valid


def _vlmo_joint(model: VLMo, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _text(inputs)
    states, T = model.fuse(inputs["image"], ids, valid), ids.shape[1]
    out = {"text_feats": states[:, :T], "image_feats": states[:, T:], "cls_feats": model.pooled(states)}
    out |= {"itm_logits": model.match(*_embedded(model, inputs["image"], ids, valid))} if "itm" in model.tasks else {}
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
    images, *texts = _embedded(model, image, ids, valid)
    images, texts, fits, _ = matching.with_negatives(images, texts, negatives)
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


# ------------------------------------------------------------------------------------------------- BEiT-3


def _words(inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    ids = inputs["text_ids"]
    return ids, inputs["padding_mask"] != 1 if "padding_mask" in inputs else jnp.ones(ids.shape, bool)


def _beit3_states(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _words(inputs) if "text_ids" in inputs else (None, None)
    masked = inputs["vision_mask"] == 1 if "vision_mask" in inputs else None
    mask = inputs["attn_mask"][None, None] == 0 if "attn_mask" in inputs else None
    states = model.states(inputs.get("image"), ids, valid, masked=masked, mask=mask)
    return {"states": states} | ({"loss": jnp.sum(states * inputs["weight"])} if "weight" in inputs else {})


def _beit3_caption(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    return {"logits": model.caption_logits(inputs["image"], *_words(inputs))}


def _beit3_steps(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    words = jnp.pad(inputs["words"], ((0, 0), (0, 1)))
    counts = jnp.arange(1, words.shape[1])
    return {"step_logits": jnp.stack(
        [model.next_logits(inputs["image"], words, jnp.full(len(words), count)) for count in counts], axis=1
    )}  # fmt: skip


def _beit3_mdm(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    image, codes, masked = inputs["image"], inputs["image_codes"], inputs["vision_mask"] == 1
    shown, labels, valid = inputs["masked_ids"], inputs["text_labels"], inputs["padding_mask"] != 1
    text = {"ids": jnp.maximum(labels, 0), "valid": valid, "shown": shown, "chosen": labels >= 0}
    terms = {
        "loss_image": model.masked_loss(image, codes, masked=masked)["image"],
        "loss_text": model.masked_loss(**text)["text"],
    }
    pair = model.masked_loss(image, codes, masked=masked, **text)
    terms |= {"loss_pair_image": pair["image"], "loss_pair_text": pair["text"]}
    losses = {name: term.mean for name, term in terms.items()}
    return {
        **losses,
        "loss_total": sum(losses.values()),
        "text_logits": model.word_logits(model.states(ids=shown, valid=valid)),
        "image_logits": model.code_logits(model.states(image, masked=masked)),
    }


def _beit3_retrieval(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    (ids, valid), image = _words(inputs), inputs["image"]
    img, txt = model.embed_image(image), model.embed_text(ids, valid)
    batch = {"image": image, "ids": ids, "valid": valid}
    return {"vision_cls": img, "language_cls": txt, "logits": jnp.exp(model.log_scale) * img @ txt.T,
            "loss": total(model.losses(batch, train=False))}  # fmt: skip


def _beit3_vqa(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    ids, valid = _words(inputs)
    batch = {"image": inputs["image"], "ids": ids, "valid": valid, "target": inputs["targets"]}
    return {"logits": model.answer(inputs["image"], ids, valid), "loss": total(model.losses(batch, train=False))}


def _beit3_nlvr2(model: BEiT3, inputs: Inputs) -> dict[str, Any]:
    return {"logits": model.reason(jnp.stack([inputs["image"], inputs["image_b"]], axis=1), *_words(inputs))}


BEIT3: dict[str, Task] = {
    **dict.fromkeys(("image", "text", "joint", "joint_masked_image", "joint_attn_mask", "joint_grad"), _beit3_states),
    **dict.fromkeys(("image_masked", "image_grad", "text_grad"), _beit3_states),
    "caption": _beit3_caption,
    "step_logits": _beit3_steps,
    "mdm": _beit3_mdm,
    "retrieval": _beit3_retrieval,
    "vqa": _beit3_vqa,
    "nlvr2": _beit3_nlvr2,
    "imagecls": lambda model, inputs: {"logits": model.classify(inputs["image"])},
}


class CaptionRunner(TaskRunner):
    """BEiT-3's; the logits of selected words are picked on the host, where their number is known."""

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs of a task."""
        made = dict(super().__call__(task, inputs, wanted))
        if "language_masked_pos" in inputs and "logits" in made:
            made["masked_logits"] = np.asarray(made["logits"])[inputs["language_masked_pos"] == 1]
        return made


def open_beit3(folder: pathlib.Path) -> Runner:
    """The runner of a BEiT-3 checkpoint."""
    return CaptionRunner(folder, BEIT3)


# ------------------------------------------------------------------------------------------------- VQ-KD


def _pixels(inputs: Inputs) -> jax.Array:
    return inputs["image"] * 2 - 1  # from [0, 1]


def _grid(vectors: jax.Array) -> jax.Array:
    side = round(vectors.shape[1] ** 0.5)
    return vectors.reshape(len(vectors), side, side, -1).transpose(0, 3, 1, 2)


def _vqkd_encode(model: VQKD, inputs: Inputs) -> dict[str, Any]:
    found = model.encode(_pixels(inputs))
    return {
        "encoder_features": model.patch_states(_pixels(inputs)),
        "projected": found.features,
        "codes": found.codes,
        "quantized": _grid(found.vectors),
        "commitment_loss": found.commitment.mean,
    }


def _vqkd_reconstruct(model: VQKD, inputs: Inputs) -> dict[str, Any]:
    found = model.encode(_pixels(inputs))
    made = model.decode(found.vectors)
    distil, commit = model.distil(made, inputs["target"])["distil"].mean, found.commitment.mean
    return {
        "decoder_features": model.decoder_states(found.vectors),
        "reconstruction": made,
        "rec_loss": distil,
        "commitment_loss": commit,
        "loss": distil + commit,
    }


def _vqkd_update(model: VQKD, inputs: Inputs) -> dict[str, Any]:
    found = model.encode(_pixels(inputs), train=True)
    book: dict[str, jax.Array] = {name: model.quantize.get_variable(CODEBOOK, name) for name in ("vectors", "usage")}
    return {"codes": found.codes, "commitment_loss": found.commitment.mean, "new_codebook": book["vectors"],
            "new_cluster_size": book["usage"]}  # fmt: skip


VQKD_TASKS: dict[str, Task] = {
    "encode": _vqkd_encode,
    "reconstruct": _vqkd_reconstruct,
    "reconstruct_grad": _vqkd_reconstruct,
    "ema_update": _vqkd_update,
}


def open_vqkd(folder: pathlib.Path) -> Runner:
    """The runner of a VQ-KD checkpoint."""
    return TaskRunner(folder, VQKD_TASKS)
