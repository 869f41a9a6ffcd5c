"""BLIP's fixtures: the publishers' inputs in, their outputs out, through public methods of the system."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import systems
from mmjax.commands import models
from mmjax.commands.golden import META, Arrays, Runner, Unable
from mmjax.core import trees
from mmjax.core.types import total
from mmjax.decoders.generate import generate
from mmjax.decoders.settings import Settings
from mmjax.losses import matching
from mmjax.losses.lm import next_token
from mmjax.losses.negatives import negative_weights
from mmjax.losses.queue import enqueue
from mmjax.weights import blip_config, families, files, surgery

IGNORED = -100  # the label of what is not predicted
NO_WORD = "the description gives no {}, which the task needs"


class BlipRunner:
    """A published BLIP checkpoint with the outputs that fixtures ask of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.loaded = surgery.load(folder, models.shapes)
        self.model: Any = systems.build({**self.loaded.system, "dtype": "float32"})
        self.variables = jax.tree.map(jnp.asarray, self.loaded.variables)
        self.about = files.read_json(folder / META)["tasks"]
        self.config = files.read_json(folder / "config.json")
        self.hf = blip_config.is_hf(self.config)

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs of a task.

        Raises:
          Unable: a task that BLIP's form does not have.
        """
        name = f"_{'hf' if self.hf else 'original'}_{task.partition('_')[0]}_{self.loaded.system['task']}"
        if not hasattr(self, name):
            raise Unable(f"mmjax has no task {task!r} of BLIP in the form {self.loaded.system['task']!r}")
        return getattr(self, name)(task, inputs)

    def _run(self, compute: Any, *inputs: Any) -> Any:
        """`compute(model, …)` under jit, with the checkpoint's variables."""
        plain = {name: tree for name, tree in self.variables.items() if name != surgery.TEACHER}
        return jax.jit(lambda v, given: self.model.apply(v, *given, method=compute))(plain, inputs)

    # ------------------------------------------------------------------------------------------- Hugging Face

    def _hf_caption_caption(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        ids, labels = _ints(inputs["input_ids"]), _ints(inputs["labels"])

        def compute(model: Any, image: Any, valid: Any) -> dict[str, Any]:
            states = model.encode_states_image(image)
            logits = model.words(states, ids, valid)
            loss = next_token(logits, jnp.maximum(labels, 0), labels != IGNORED, smoothing=model.smoothing)
            return {"logits": logits, "loss": loss.mean, "image_embeds": states}

        return self._run(compute, _image(inputs["pixel_values"]), _bools(inputs["attention_mask"]))

    def _hf_generate_caption(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        batch = {"image": _image(inputs["pixel_values"])}
        if "input_ids" in inputs:  # the library drops the prompt's last token
            ids = _ints(inputs["input_ids"])[:, :-1]
            batch |= {"ids": ids, "valid": jnp.ones(ids.shape, bool)}
        return {"ids": self._texts(task, batch)}

    def _hf_match_retrieval(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        def compute(model: Any, image: Any, ids: Any, valid: Any) -> dict[str, Any]:
            states = model.encode_states_image(image)
            return {
                "itm_score": model.match(states, ids, valid),
                "fused_states": model.ground(states, ids, valid),
                "cosine": model.embed_image(image) @ model.embed_text(ids, valid).T,
                "text_states": model.read(ids, valid),
                "image_embeds": states,
            }

        return self._run(compute, _image(inputs["pixel_values"]), *_question(inputs))

    def _hf_train_vqa(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        labels = _ints(inputs["labels"])

        def compute(model: Any, image: Any, ids: Any, valid: Any, answers: Any, seen: Any) -> dict[str, Any]:
            states = model.question_states({"image": image, "ids": ids, "valid": valid})
            # The library's cross-attention drops its mask: a question's padding is seen by the answers.
            every = jnp.ones(valid.shape, bool)
            logits = model.answer_logits(states, every, answers[:, None], seen[:, None])[:, 0]
            loss = next_token(logits, jnp.maximum(labels, 0), labels != IGNORED, smoothing=model.smoothing)
            return {"loss": loss.mean, "question_states": states, "answer_logits": logits}

        answers = _ints(inputs["decoder_input_ids"]), _bools(inputs["decoder_attention_mask"])
        return self._run(compute, _image(inputs["pixel_values"]), *_question(inputs), *answers)

    def _hf_generate_vqa(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        ids, valid = _question(inputs)
        return {"ids": self._texts(task, {"image": _image(inputs["pixel_values"]), "ids": ids, "valid": valid})}

    def _texts(self, task: str, batch: Mapping[str, Any]) -> np.ndarray:
        """Generated ids as the library returns them: cut where the longest ends, filled behind the end.

        Its beam search takes the padding id 0 as unset and fills with the end token.
        """
        # A task that is "the same with beam search" leaves the lengths to the one before it.
        others = [about["description"] for name, about in self.about.items() if name.startswith("generate")]
        words = " ".join([self.about[task]["description"], *others])
        beams = re.search(r"beam(\d+)", task)
        how = Settings(
            beams=int(beams[1]) if beams else 1, max_length=int(_number(words, "max_length")),
            min_length=int(_number(words, "min_length")), length_penalty=_number(words, "length penalty", 1.0),
        )  # fmt: skip
        texts = jax.jit(lambda v, b: generate(self.model, v, b, how))(self.variables, batch)
        ids, length = np.array(texts.ids), np.asarray(texts.length)
        fill = self.model.end_ids[0] if beams else 0
        ids[np.arange(ids.shape[1])[None] >= length[:, None]] = fill
        return ids[:, : length.max()].astype(np.int64)

    # ------------------------------------------------------------------------------------------- the original

    def _original_encode_pretrain(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        def compute(model: Any, image: Any, ids: Any, valid: Any) -> dict[str, Any]:
            states = model.encode_states_image(image)
            return {
                "image_embeds": states,
                "image_feat": model.embed_image(image),
                "text_states": model.read(ids, valid),
                "text_feat": model.embed_text(ids, valid),
                "grounded_states": model.ground(states, ids, valid),
                "itm_logits": model.match(states, ids, valid),
                "lm_logits": model.words(states, ids, valid),
            }

        return self._run(compute, _image(inputs["image"]), _ints(inputs["text_ids"]), _bools(inputs["text_mask"]))

    def _original_pretrain_pretrain(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        """One step without an optimizer: first the teacher follows, then the losses, then the queue."""
        batch = {"image": _image(inputs["image"]), "ids": _ints(inputs["text_ids"]),
                 "valid": _bools(inputs["text_mask"])}  # fmt: skip
        decay = float(self.config.get("momentum", 0.995))
        student = self.variables["params"]
        flat = trees.flatten(student)
        teacher = {path: decay * old + (1 - decay) * flat[path]
                   for path, old in trees.flatten(self.variables[surgery.TEACHER]).items()}  # fmt: skip
        other = {**self.variables, "params": trees.merge(student, trees.unflatten(teacher))}
        other.pop(surgery.TEACHER)
        taught = jax.jit(lambda v, b: self.model.apply(v, b, train=False, method="teach"))(other, batch)
        rows = (_ints(inputs["neg_image_idx"]), _ints(inputs["neg_text_idx"]))
        there = jnp.ones(len(rows[0]), bool)
        negatives = matching.Negatives(rows[0], rows[1], there, there)

        def compute(model: Any, batch: Any, taught: Any) -> dict[str, Any]:
            states, ids, valid = model.encode_states_image(batch["image"]), batch["ids"], batch["valid"]
            img, txt = model.embed_image(batch["image"]), model.embed_text(ids, valid)
            ita = model.contrast(img, txt, taught, jnp.asarray(inputs["alpha"]))
            itm, logits = model.matching(states, ids, valid, negatives, train=False)
            lm = model.writing(states, ids, valid, valid, train=False)
            img_logits, txt_logits = model.similarities(img, txt, taught)
            queue = enqueue(model.past(), {name: taught[name] for name in ("img", "txt")})
            return {
                "loss_ita": ita.mean,
                "loss_itm": itm.mean,
                "loss_lm": lm.mean,
                "loss_total": total({"ita": ita, "itm": itm, "lm": lm}),
                "neg_image_weights": negative_weights(txt_logits, floor=model.floor),
                "neg_text_weights": negative_weights(img_logits, floor=model.floor),
                "itm_logits": logits.reshape(-1, 3, 2).swapaxes(0, 1).reshape(-1, 2),
                "new_image_queue": queue.features["img"].T,
                "new_text_queue": queue.features["txt"].T,
                "new_queue_ptr": queue.pointer[None],
            }

        made = dict(self._run(compute, batch, taught))
        made["new_queue_ptr"] = np.asarray(made["new_queue_ptr"], np.int64)
        return made | self._followed(task, teacher)

    def _followed(self, task: str, teacher: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's tensors that the task asks for, under the names by which their descriptions begin."""
        whole = {f"{surgery.TEACHER}/{path}": np.asarray(value) for path, value in teacher.items()}
        table = families.table_of(self.loaded.system, self.loaded.origin)
        rows = {row.published: row for row in table.expand() if row.collection == surgery.TEACHER}
        made = {}
        for output, words in self.about[task]["outputs"].items():
            named = [key for key in rows if key in words]
            if output == "new_text_m_word_embeddings":
                named = ["text_encoder_m.embeddings.word_embeddings.weight"]
            if output.startswith("new_") and named:
                row = rows[named[0]]
                made[output] = row.transform.to_published([whole[path] for path in row.paths])
        return made

    def _original_train_vqa(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        counts = inputs["answers_per_question"]
        places = np.arange(counts.max())[None] < counts[:, None]  # [B, A]

        def grouped(rows: np.ndarray) -> jax.Array:
            out = np.zeros((*places.shape, *rows.shape[1:]), rows.dtype)
            out[places] = rows
            return jnp.asarray(out)

        given = {"answer_ids": grouped(inputs["answer_ids"].astype(np.int32)),
                 "answer_valid": grouped(inputs["answer_mask"].astype(bool)),
                 "answer_weight": grouped(inputs["answer_weights"])}  # fmt: skip

        def compute(model: Any, batch: Any) -> dict[str, Any]:
            logits = model.answer_logits(
                model.question_states(batch), batch["valid"], batch["answer_ids"], batch["answer_valid"]
            )
            return {"loss": total(model.losses(batch, train=False)), "answer_logits": logits}

        made = dict(self._run(compute, {**self._asked(inputs), **given}))
        made["answer_logits"] = np.asarray(made["answer_logits"])[places]
        return made

    def _original_rank_vqa(self, task: str, inputs: Arrays) -> Mapping[str, Any]:
        candidates = _ints(inputs["candidate_ids"]), _bools(inputs["candidate_mask"])
        k = int(inputs["k"])

        def compute(model: Any, batch: Any) -> dict[str, Any]:
            states = model.question_states(batch)
            every = [jnp.broadcast_to(x[None], (len(states), *x.shape)) for x in candidates]
            return {
                "question_states": states,
                "candidate_scores": -model.answer_sums(states, batch["valid"], *every),
                "best": model.rank_answers(batch, *candidates, k)["index"][:, 0],
            }

        made = dict(self._run(compute, self._asked(inputs)))
        made["best"] = np.asarray(made["best"], np.int64)
        return made

    def _asked(self, inputs: Arrays) -> dict[str, jax.Array]:
        ids, valid = _ints(inputs["question_ids"]), _bools(inputs["question_mask"])
        return {"image": _image(inputs["image"]), "ids": ids, "valid": valid}


def _image(pixels: np.ndarray) -> jax.Array:
    return jnp.asarray(pixels.transpose(0, 2, 3, 1))  # NCHW -> NHWC


def _ints(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array, jnp.int32)


def _bools(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.astype(bool))


def _question(inputs: Arrays) -> tuple[jax.Array, jax.Array]:
    return _ints(inputs["input_ids"]), _bools(inputs["attention_mask"])


def _number(words: str, name: str, default: float | None = None) -> float:
    """The number that follows a name in a task's description."""
    found = re.search(rf"{name} (\d+(?:\.\d+)?)", words)
    if found is None and default is None:
        raise Unable(NO_WORD.format(name))
    return float(found[1] if found else default or 0)


def open_model(folder: pathlib.Path) -> Runner:
    """The runner of a folder with a BLIP checkpoint."""
    return BlipRunner(folder)
