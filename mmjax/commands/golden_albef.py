"""ALBEF's fixtures: encoders, retrieval in two stages, the losses of training with their randomness given, and what a
step makes of momentum copies and queues."""

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
from mmjax.core.types import total
from mmjax.losses import matching
from mmjax.losses import momentum as itc
from mmjax.losses.mlm import masked_lm
from mmjax.losses.negatives import negative_weights
from mmjax.systems import base
from mmjax.systems.albef import ALBEF
from mmjax.systems.albef_tasks import ALBEFAnswers
from mmjax.train.state import TEACHER, moving_average
from mmjax.weights import families, surgery

MOMENTUM = 0.995  # where the configuration does not say
UNSCORED = -100.0


def open_albef(folder: pathlib.Path) -> Runner:
    """The runner of a folder with an ALBEF checkpoint."""
    return AlbefRunner(folder)


class AlbefRunner:
    """A published ALBEF checkpoint and what a fixture asks of it; momentum copies are updated before they are used."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.loaded = surgery.load(folder, models.shapes)
        self.model: Any = systems.build({**self.loaded.system, "dtype": "float32"})
        self.variables = jax.tree.map(jnp.asarray, self.loaded.variables)
        self.table = families.table_of(self.loaded.system, self.loaded.origin)
        copies = self.variables.pop(TEACHER, {})
        decay = self.loaded.origin.config.get("momentum", MOMENTUM)
        self.teacher = moving_average(copies, self.variables["params"], decay)

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs of a task.

        Raises:
          Unable: a task that it does not know, or an input that is missing.
        """
        tasks = TASKS.get(type(self.model), {})
        if task not in tasks:
            raise Unable(f"ALBEF's {self.loaded.system['task']} form has no task {task!r}; it has {', '.join(tasks)}")
        try:
            return tasks[task](self, inputs)
        except KeyError as error:
            raise Unable(f"task {task!r}: the input {error} is missing") from error

    def run(self, function: Callable[[Any], Any], params: Any = None) -> Any:
        """`function(model)` with the online parameters, or with others."""
        variables = {**self.variables, "params": self.variables["params"] if params is None else params}
        return self.model.apply(variables, method=function)

    def taught(self, function: Callable[[Any], Any]) -> Any:
        """`function(model)` of the momentum model.

        Raises:
          Unable: the checkpoint has no momentum copies.
        """
        if not self.teacher:
            raise Unable("the checkpoint has no momentum copies")
        return self.run(function, trees.merge(self.variables["params"], self.teacher))

    def published(self, queue: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """The state after a step without an optimizer, in the names of the checkpoint."""
        variables = {**self.variables, TEACHER: self.teacher, **({} if queue is None else {"queue": queue})}
        return self.table.published(
            trees.flatten(variables), {"queue/past/pointer": "int64", "queue/past/ids": "int64"}
        )


def _batch(inputs: Arrays, text: str = "text") -> dict[str, jax.Array]:
    """The reference's inputs (images NCHW, normalised) as a batch of ours."""
    batch = {
        "image": jnp.asarray(inputs["image"].transpose(0, 2, 3, 1)),  # NCHW -> NHWC
        "ids": jnp.asarray(inputs[f"{text}_ids"], jnp.int32),
        "valid": jnp.asarray(inputs[f"{text}_mask"] == 1),
    }
    if "image_idx" in inputs:
        batch["image_id"] = jnp.asarray(inputs["image_idx"], jnp.int32)
    return batch


# ------------------------------------------------------------------------------------------------- ALBEF


def _encode(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    batch = _batch(inputs)

    def forward(m: ALBEF) -> dict[str, Any]:
        image = m.encode_states_image(batch["image"])
        text = m.encode_states_text(batch["ids"], batch["valid"])
        return {
            "image_embeds": image,
            "image_feat": m.embed_image(batch["image"]),
            "text_embeds": text,
            "text_feat": m.embed_text(batch["ids"], batch["valid"]),
            "fusion_states": m.fuse(image, text, batch["valid"]),
            "multi_modal_states": m.txt(batch["ids"], batch["valid"], image),
            "itm_logits": m.match(image, text, batch["valid"]),
        }

    return runner.run(forward)


def _retrieval(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    """Every image with every text: the fixture is small; the k best of the cosines keep their score."""
    batch, k = _batch(inputs), int(inputs["k"])

    def forward(m: ALBEF) -> tuple[Any, Any]:
        image = m.encode_states_image(batch["image"])
        text = m.encode_states_text(batch["ids"], batch["valid"])
        img, txt = m.features_of(image, text)
        rows = [
            m.match(jnp.broadcast_to(one, image.shape), text, batch["valid"])[:, 1]
            for one in jnp.split(image, len(image))
        ]
        return img @ txt.T, jnp.stack(rows)

    sims, scores = (np.asarray(x) for x in runner.run(forward))
    kept = [_best(sims, k), _best(sims.T, k)]
    i2t, t2i = (
        np.where(best, s, UNSCORED).astype(np.float32) for best, s in zip(kept, (scores, scores.T), strict=True)
    )
    return {"sims": sims, "score_matrix_i2t": i2t, "score_matrix_t2i": t2i}


def _best(sims: np.ndarray, k: int) -> np.ndarray:
    """bool: the k largest of each row."""
    return np.argsort(np.argsort(-sims, axis=1, kind="stable"), axis=1) < k


def _teach(runner: AlbefRunner, batch: Mapping[str, Any], masked: tuple[Any, ...] = ()) -> dict[str, Any]:
    return runner.taught(lambda m: m.taught(batch, *masked, train=False))


def _pictures(m: ALBEF, batch: Mapping[str, Any]) -> jax.Array | None:
    return base.picture_ids(batch) if m.by_id else None


def _contrast(m: ALBEF, batch: Mapping[str, Any], taught: Mapping[str, Any], alpha: Any) -> Any:
    image = m.encode_states_image(batch["image"])
    text = m.encode_states_text(batch["ids"], batch["valid"])
    return m.contrast(*m.features_of(image, text), taught, alpha, _pictures(m, batch)).mean


def _itc(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    batch, alpha = _batch(inputs), jnp.asarray(inputs["alpha"])
    taught = _teach(runner, batch, (batch["ids"], batch["valid"]) if "mlm" in runner.model.tasks else ())

    def forward(m: ALBEF) -> dict[str, Any]:
        img, txt = m.embed_image(batch["image"]), m.embed_text(batch["ids"], batch["valid"])
        out = {"image_feat": img, "text_feat": txt, "image_feat_m": taught["img"], "text_feat_m": taught["txt"]}
        past, ids = m.past() if m.queue else None, _pictures(m, batch)
        rows = {} if past is None else past.features
        queue_ids = None if ids is None or past is None else past.ids
        hard = itc.hard_targets(len(img), rows.get("txt"), ids, queue_ids)
        for name, online, own, other in (("i2t", img, "img", "txt"), ("t2i", txt, "txt", "img")):
            found = itc.candidates(taught[other], rows.get(other))
            out[f"sim_{name}"] = itc.similarities(online, found) / m.tau
            out[f"targets_{name}"] = itc.soft_targets(taught[own], found, m.tau, alpha, hard)
        return {**out, "loss_ita": _contrast(m, batch, taught, alpha)}

    return runner.run(forward)


def _itc_grad(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    batch, alpha = _batch(inputs), jnp.asarray(inputs["alpha"])
    taught = _teach(runner, batch, (batch["ids"], batch["valid"]) if "mlm" in runner.model.tasks else ())

    def loss(params: Any) -> jax.Array:
        return runner.run(lambda m: _contrast(m, batch, taught, alpha), params)

    value, gradient = jax.jit(jax.value_and_grad(loss))(runner.variables["params"])
    named = _gradients(runner, gradient)
    return {"loss_ita": value, **{f"grad.{key}": array for key, array in named.items()}}


def _gradients(runner: AlbefRunner, gradient: Any) -> dict[str, np.ndarray]:
    return runner.table.published(trees.flatten({"params": gradient}))


def _losses(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    """Pre-training, or fine-tuning for retrieval: the terms, and the state after the step."""
    batch, alpha = _batch(inputs), jnp.asarray(inputs["alpha"])
    masked: tuple[Any, ...] = ()
    if "mlm" in runner.model.tasks:
        masked = jnp.asarray(inputs["mlm_input_ids"], jnp.int32), jnp.asarray(inputs["mlm_labels"] != -100)
    taught = _teach(runner, batch, masked)
    wrong_img, wrong_txt = (jnp.asarray(inputs[f"neg_{name}_idx"], jnp.int32) for name in ("image", "text"))

    def forward(m: ALBEF) -> dict[str, Any]:
        image = m.encode_states_image(batch["image"])
        text = m.encode_states_text(batch["ids"], batch["valid"])
        img, txt = m.features_of(image, text)
        ids, there = _pictures(m, batch), jnp.ones(len(img), bool)
        negatives = matching.Negatives(wrong_img, wrong_txt, there, there)
        itm, logits = m.matching(image, text, batch["valid"], negatives, train=False)
        terms = {"itc": m.contrast(img, txt, taught, alpha, ids), "itm": itm}
        out = {"itm_logits": logits.reshape(-1, 3, 2).transpose(1, 0, 2).reshape(-1, 2)}
        if "mlm" in m.tasks:
            words = m.words(image, masked[0], batch["valid"])
            terms["mlm"] = masked_lm(words, batch["ids"], masked[1], taught=taught["logits"], alpha=alpha)
            out |= {"mlm_logits": words, "mlm_logits_m": taught["logits"], "loss_mlm": terms["mlm"].mean}
        out["neg_image_weights"] = negative_weights(txt @ taught["img"].T / m.tau, ids)
        out["neg_text_weights"] = negative_weights(img @ taught["txt"].T / m.tau, ids)
        m.past.enter({name: taught[name] for name in ("img", "txt")}, ids)
        return {**out, "loss_ita": terms["itc"].mean, "loss_itm": itm.mean, "loss_total": total(terms)}

    out, changed = runner.model.apply(runner.variables, method=forward, mutable=["queue"])
    return {**out, **_state(runner, runner.published(changed["queue"]))}


def _state(runner: AlbefRunner, after: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a fixture calls the tensors of a checkpoint after a step."""
    text = "text_encoder_m.bert" if "mlm" in runner.model.tasks else "text_encoder_m"
    layer = runner.loaded.system["txt"]["cross_from"]
    names = {
        "new_image_queue": "image_queue",
        "new_text_queue": "text_queue",
        "new_idx_queue": "idx_queue",
        "new_queue_ptr": "queue_ptr",
        "new_vision_proj_m_weight": "vision_proj_m.weight",
        "new_text_proj_m_bias": "text_proj_m.bias",
        "new_visual_m_qkv": "visual_encoder_m.blocks.0.attn.qkv.weight",
        "new_text_m_word_embeddings": f"{text}.embeddings.word_embeddings.weight",
        "new_text_m_cross_key": f"{text}.encoder.layer.{layer}.crossattention.self.key.weight",
    }
    return {ours: after[theirs] for ours, theirs in names.items() if theirs in after}


# ------------------------------------------------------------------------------------------------- answers


def _answers(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    """Answers grouped by question, which the batch holds in rows of equal number."""
    batch, counts = _batch(inputs, "question"), inputs["answers_per_question"]
    row, place = np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])

    def grouped(values: np.ndarray, kind: Any) -> jax.Array:
        out = np.zeros((len(counts), counts.max(), *values.shape[1:]), kind)
        out[row, place] = values
        return jnp.asarray(out)

    batch["answer_ids"] = grouped(inputs["answer_ids"], np.int32)
    batch["answer_valid"] = grouped(inputs["answer_mask"] == 1, bool)
    batch["answer_weight"] = grouped(inputs["answer_weights"], np.float32)
    taught = runner.taught(lambda m: m.teach(batch, train=False))
    logits = runner.run(lambda m: m.teach(batch, train=False))["logits"]
    runner.model = runner.model.clone(alpha=float(inputs["alpha"]))
    loss = runner.run(lambda m: total(m.losses(batch, train=False, taught=taught)))
    return {"loss": loss, "answer_logits": logits[row, place], "answer_logits_m": taught["logits"][row, place]}


def _rank(runner: AlbefRunner, inputs: Arrays) -> dict[str, Any]:
    batch, k = _batch(inputs, "question"), int(inputs["k"])
    ids, valid = jnp.asarray(inputs["candidate_ids"], jnp.int32), jnp.asarray(inputs["candidate_mask"] == 1)

    def forward(m: ALBEFAnswers) -> dict[str, Any]:
        states = m.question_states(batch)
        ranked = m.rank_answers(batch, ids, valid, k)
        return {
            "question_states": states,
            "first_token_logits": m.first_logits(states, batch["valid"], ids),
            "topk_ids": ranked["index"],
            "topk_probs": jax.nn.softmax(ranked["score"], axis=1),
        }

    return runner.run(forward)


# Form of ALBEF -> tasks of its fixtures.
TASKS: dict[type, dict[str, Callable[[AlbefRunner, Arrays], Mapping[str, Any]]]] = {
    ALBEF: {
        "encode": _encode,
        "retrieval": _retrieval,
        "itc": _itc,
        "itc_grad": _itc_grad,
        "pretrain": _losses,
        "finetune": _losses,
    },
    ALBEFAnswers: {"train": _answers, "rank": _rank},
}
