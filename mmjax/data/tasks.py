"""What training reads of an example: an image and a text, a question and its answers, two images and a verdict.

A task is a table row: it draws what is random of one example, and puts samples together into a batch. All that it
draws comes from the generator that it is given, so that a batch is a function of seed and step alone.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import BadExample, UserError
from mmjax.data.chat_task import Chats, Sight
from mmjax.data.choices import choose
from mmjax.data.conversations import questions_of
from mmjax.data.task import Arrays, Make, Sample, Task, Tokenizer, one_picture, tokens


@dataclasses.dataclass(frozen=True)
class Pairs:
    """An image and one of its texts.

    Attributes:
      image_id: also give `image_id`, the picture's number: the example's own, or else its place in the sources. Pairs
        of one picture are then positives of each other.
    """

    image_id: bool = False

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        check = getattr(text, "check", None)
        if check is not None:
            check(example)

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        sample = {"image": one_picture(example, number, make.image, rng), "text": make.text(example, rng)}
        return {**sample, "image_id": int(example.get("image_id", number))} if self.image_id else sample

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        return {"image_id": np.array([s["image_id"] for s in samples], np.int32)} if self.image_id else {}


@dataclasses.dataclass(frozen=True)
class Captions(Pairs):
    """An image and a text behind a prompt; `mask_loss` leaves the prompt, begin token included, out of the loss.

    Attributes:
      prompt: put before every text, as BLIP's "a picture of "; what of it becomes tokens is the same for all texts.
    """

    prompt: str = ""

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        sample = super().sample(example, number, make, rng)
        return {**sample, "text": self.prompt + sample["text"]}

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        extra = super().collate(samples, tokenizer, length)
        ids, valid = tokens(tokenizer, [sample["text"] for sample in samples], length)
        (prompt,), (there,) = tokens(tokenizer, [self.prompt], length)
        size = min(length, len(prompt))
        # What the texts have in common with the prompt alone: its end token is not part of it.
        same = (ids[:, :size] == prompt[None, :size]) & valid[:, :size] & there[None, :size]
        begins = np.pad(np.cumprod(same, axis=1) > 0, ((0, 0), (0, ids.shape[1] - size)))
        return {**extra, "mask_loss": valid & ~begins}


@dataclasses.dataclass(frozen=True)
class Masked(Pairs):
    """What masked data modelling reads: pairs, or images or texts alone, whose examples need nothing else.

    Attributes:
      modality: "pair", "image" or "text"; "all": pairs, with images and texts alone beside them (data/mixture.py).
      whole_words: also give `begins`, which tokens begin a word, by the tokenizer's `begins_word`.
    """

    modality: str = "pair"
    whole_words: bool = False

    def __post_init__(self) -> None:
        choose("modality of the task masked", self.modality, MODALITIES)

    @property
    def without(self) -> tuple[str, ...]:
        """Keys that the batch does not have."""
        return MODALITIES[self.modality]

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        if self.modality != "image":
            super().check(example, text)

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        sample: Sample = {"image_id": int(example.get("image_id", number))} if self.image_id else {}
        if "image" not in self.without:
            sample["image"] = one_picture(example, number, make.image, rng)
        return sample if "ids" in self.without else {**sample, "text": make.text(example, rng)}

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        extra = super().collate(samples, tokenizer, length)
        if not self.whole_words or "begins" in self.without:
            return extra
        if not hasattr(tokenizer, "begins_word"):
            raise UserError(f"task masked: {type(tokenizer).__name__} does not say which tokens begin a word")
        ids, valid = tokens(tokenizer, [sample["text"] for sample in samples], length)
        return {**extra, "begins": np.asarray(tokenizer.begins_word())[ids] & valid}


MODALITIES = {"pair": (), "all": (), "image": ("ids", "valid", "begins"), "text": ("image",)}  # -> keys left out


ANSWER = "answer"  # as `captions` of Questions


@dataclasses.dataclass(frozen=True)
class Questions:
    """An image, one of its questions (the example's `questions`, or its `question`), and the answers to it.

    Attributes:
      answers: A, at most so many different answers, those that most annotators gave.
      answer_length: tokens of an answer, L.
      classes: names of a closed set of answers; then the batch has `target`, VQA's score of each, instead of answers.
      weight: of the answer of a question that has one answer (ALBEF and BLIP give Visual Genome's 0.5 and 0.2). Of
        several annotators, an answer's weight is the share of them that gave it.
      captions: also give `caption_ids` and `caption_valid`: True, of one of the example's texts (BEiT-3 answers and
        writes); "answer", of the question and the answer of one annotator, drawn anew each time (CoCa).
    """

    answers: int = 1
    answer_length: int = 8
    classes: Sequence[str] = ()
    weight: float = 1.0
    captions: bool | str = False

    def __post_init__(self) -> None:
        if self.answers < 1 or self.answer_length < 2 or not 0 < self.weight <= 1:
            raise UserError(
                f"task vqa: answers {self.answers}, answer_length {self.answer_length}, weight {self.weight}; valid: "
                "1 answer up, 2 tokens up, a weight above 0 and up to 1"
            )
        object.__setattr__(self, "classes", tuple(self.classes))
        if isinstance(self.classes, str) or len(set(self.classes)) != len(self.classes):
            raise UserError("task vqa: classes must be a list of different answers")
        if self.captions not in (True, False, ANSWER):
            raise UserError(f"task vqa: captions = {self.captions!r}; valid: true, false or {ANSWER!r}")

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        if not questions_of(example):
            raise BadExample("empty caption", "no question with an answer", str(example.get("key", "")))
        if self.captions is True:
            Pairs().check(example, text)

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        picture, asked = one_picture(example, number, make.image, rng), questions_of(example)
        question, answers = asked[int(len(asked) * rng.random())] if len(asked) > 1 else asked[0]
        sample = {"image": picture, "text": question, "answers": answers}
        if self.captions == ANSWER:
            return {**sample, "caption": f"{question} {answers[int(len(answers) * rng.random())]}"}
        return {**sample, "caption": make.text(example, rng)} if self.captions else sample

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        made = self.collate_answers(samples, tokenizer)
        if self.captions:
            ids, valid = tokens(tokenizer, [sample["caption"] for sample in samples], length)
            made |= {"caption_ids": ids, "caption_valid": valid}
        return made

    def collate_answers(self, samples: Sequence[Sample], tokenizer: Tokenizer) -> Arrays:
        """`target` of the classes, or the answers' `answer_ids`, `answer_valid`, `answer_weight`."""
        counted: list[Counter[str]] = [Counter(sample["answers"]) for sample in samples]
        if self.classes:
            place = {name: i for i, name in enumerate(self.classes)}
            target = np.zeros((len(samples), len(place)), np.float32)
            for row, counts in zip(target, counted, strict=True):
                single = counts.total() == 1
                for answer, count in counts.items():
                    if answer in place:
                        row[place[answer]] = self.weight if single else min(1.0, 0.3 * count)
            return {"target": target}
        texts, weight = [], np.zeros((len(samples), self.answers), np.float32)
        for row, counts in zip(weight, counted, strict=True):
            best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: self.answers]
            single = counts.total() == 1
            row[: len(best)] = [self.weight if single else count / counts.total() for _, count in best]
            texts += [answer for answer, _ in best] + [""] * (self.answers - len(best))
        ids, valid = tokens(tokenizer, texts, self.answer_length)
        shape = (*weight.shape, ids.shape[1])  # [B * A, L] -> [B, A, L]
        valid = valid.reshape(shape) & (weight > 0)[:, :, None]
        return {"answer_ids": ids.reshape(shape), "answer_valid": valid, "answer_weight": weight}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """One picture or several that belong together (`pictures` of an example), a statement, and its class.

    Attributes:
      images: pictures an example; more than one gives `image` uint8[B, I, Y, X, 3].
    """

    images: int = 1

    def check(self, example: Mapping[str, Any], text: Any) -> None:
        Pairs().check(example, text)
        if self.images > 1 and len(example.get("pictures") or ()) != self.images:
            found = len(example.get("pictures") or ())
            raise UserError(f"example {example.get('key', '?')!r} has {found} `pictures`; the task needs {self.images}")
        if "label" not in example:
            raise UserError(f"example {example.get('key', '?')!r} has no `label`; it has {sorted(example)}")

    def sample(self, example: Mapping[str, Any], number: int, make: Make, rng: np.random.Generator) -> Sample:
        if self.images > 1:
            picture = np.stack([make.image(each, rng) for each in example["pictures"]])
        else:
            picture = one_picture(example, number, make.image, rng)
        return {"image": picture, "text": make.text(example, rng), "label": int(example["label"])}

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Arrays:
        return {"label": np.array([sample["label"] for sample in samples], np.int32)}


TASKS: dict[str, Callable[..., Task]] = {
    "pairs": Pairs,
    "caption": Captions,
    "masked": Masked,
    "vqa": Questions,
    "nlvr2": lambda: Labelled(images=2),
    "entailment": Labelled,
    "chat": Chats,
}
_OPTIONS = {"pairs": ("image_id",), "caption": ("image_id", "prompt"),
            "masked": ("image_id", "modality", "whole_words"),
            "vqa": ("answers", "answer_length", "classes", "weight", "captions"), "nlvr2": (), "entailment": (),
            "chat": ("template", "images", "of", "ask", "short", "grids", "rule", "pack")}  # fmt: skip


def from_config(config: Mapping[str, Any] | None, sight: Sight | None = None) -> Task:
    """A task from `{"kind": "vqa", "answers": 1, …}`; without a kind, pairs.

    Args:
      config: see above.
      sight: what the system makes of a picture, for the task "chat"; None: it reads texts alone.

    Raises:
      UserError: an unknown kind, option or value.

    Example:
      >>> from_config({"kind": "caption", "prompt": "a picture of "}).prompt
      'a picture of '
    """
    options = dict(config or {})
    kind = choose("config.data.task.kind", options.pop("kind", "pairs"), TASKS)
    for name in options:
        choose(f"option of the task {kind}", name, _OPTIONS[kind])
    return TASKS[kind](**options, **({"sight": sight} if kind == "chat" else {}))
