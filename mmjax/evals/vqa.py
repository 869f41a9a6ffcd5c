"""Answers to questions about pictures: written freely, ranked among candidates, or chosen by a classifier."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options
from mmjax.evals.bootstrap import interval
from mmjax.evals.caption import Written
from mmjax.evals.classes import load_classes
from mmjax.evals.images import Pictures, examples
from mmjax.evals.words.answers import by_group, normalise_answer, vqa_accuracy

MODES = ("generate", "rank", "classify")
DEFAULTS = {"beams": 3, "max_length": 10, "min_length": 1}  # BLIP's
CHAT_DEFAULTS = {"max_new": 16}  # of systems that read conversations; greedy, as LLaVA
NEAREST = 128


class Asked(NamedTuple):
    """One question."""

    image: int  # place among the pictures
    key: str
    question: str
    answers: Sequence[str]  # of the annotators, one entry each
    kind: str  # type of the question or of the answer, "" where the data have none


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA's accuracy where several people answered; where one did, 1 if the normalised answers are equal."""
    if len(answers) > 1:
        return vqa_accuracy(prediction, answers)
    return float(normalise_answer(prediction) == normalise_answer(answers[0]))


@dataclass(frozen=True)
class VQA:
    """The evaluator. Yields `{name}/accuracy` with `…_lo`, `…_hi`, and `{name}/accuracy/{kind}` of each kind.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, of a lazy sequence. asked: the questions.
      mode: one of MODES. candidates: the answers to rank, or the names of the classes.
      nearest: of the candidates, how many are ranked by the whole answer.
      template: what is put around a question, with one `{}`.
    """

    name: str
    images: Rows
    asked: Sequence[Asked]
    tools: Tools
    mode: str
    how: Hashable = None
    candidates: Sequence[str] = ()
    nearest: int = NEAREST
    template: str = "{}"
    resamples: int = 1000

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Answers all questions and yields (name, value)."""
        yield from self.score(self.write(predictor))[0]

    def write(self, predictor: Predictor) -> list[str]:
        """An answer to each question.

        Raises:
          UserError: the system lacks the method of this mode.
        """
        predictor.check({"generate": "generate", "rank": "rank_answers", "classify": "logits"}[self.mode])
        questions = [self.template.replace("{}", each.question) for each in self.asked]
        batch: dict[str, Rows] = {"image": _Shown(self.images, [each.image for each in self.asked])}
        if self.tools.ask is not None:
            batch = dict(self.tools.ask(questions, batch["image"]))
        else:
            batch["ids"], batch["valid"] = self.tools.tokenize(questions)
        if self.mode == "generate":
            batch["seed"] = np.arange(len(self.asked), dtype=np.uint32)
            return self.tools.written(predictor.over("generate", batch, self.how))
        if self.mode == "classify":
            logits = predictor.over("logits", batch)
            if logits.shape[1] != len(self.candidates):
                raise UserError(f"the classifier has {logits.shape[1]} classes, the list {len(self.candidates)}")
            return [self.candidates[i] for i in logits.argmax(axis=1)]
        answer_ids, answer_valid = self.tools.tokenize(self.candidates)
        used = int(answer_valid.sum(axis=1).max())
        k = min(self.nearest, len(self.candidates))
        made = predictor.over("rank_answers", batch, np.asarray(answer_ids[:, :used]),
                              np.asarray(answer_valid[:, :used]), k)  # fmt: skip
        return [self.candidates[i] for i in made["index"][:, 0]]

    def score(self, answers: Sequence[str]) -> tuple[list[Value], list[Written]]:
        """Metrics, and every answer with its own accuracy."""
        each = np.array([accuracy(a, q.answers) for a, q in zip(answers, self.asked, strict=True)])
        label = f"{self.name}/accuracy"
        values: list[Value] = [(label, float(each.mean()))]
        if self.resamples:
            low, high = interval(each, resamples=self.resamples)
            values += [(f"{label}_lo", low), (f"{label}_hi", high)]
        groups = by_group(each.tolist(), [question.kind for question in self.asked])
        values += [(f"{label}/{kind}", value) for kind, value in groups.items() if kind]
        written = [Written(q.image, q.key, a, q.answers, float(s), q.question)
                   for q, a, s in zip(self.asked, answers, each, strict=True)]  # fmt: skip
        return values, written

    def baselines(self) -> dict[str, dict[str, float]]:
        """The commonest answer to each kind of question, of this very set."""
        said: dict[str, dict[str, int]] = {}
        for question in self.asked:
            counts = said.setdefault(question.kind, {})
            for answer in question.answers:
                counts[answer] = counts.get(answer, 0) + 1
        common = [max(said[q.kind], key=lambda a, kind=q.kind: said[kind][a]) for q in self.asked]  # type: ignore[misc]
        values = [(name, value) for name, value in self.score(common)[0] if not name.endswith(("_lo", "_hi"))]
        return {"commonest answer": dict(values)}


class _Shown:
    """A picture for each question; a picture of several is read once."""

    def __init__(self, images: Rows, places: Sequence[int]):
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Any:
        return self._images[self._places[index]]


def build(name: str, options: Mapping[str, Any], tools: Tools) -> VQA:
    """A VQA from the options of a config.

    Options:
      data: source spec; examples hold `questions`, or `question` with `answers`.
      mode: "generate" (default), "rank" or "classify"; candidates: answers, or a file of them, for the latter two.
      settings: of generation, default beam search as BLIP's, or of a system that reads conversations greedy.
      nearest, template, resamples: see VQA.
      kind: key of an example by which accuracies are split (default `answer_type`; else a question's own kind).
      limit: at most this many examples; per_example: at most so many questions of each, the first ones.

    Raises:
      UserError: an unknown, missing or unusable option, or no question with an answer.
    """
    known = (
        "data",
        "mode",
        "candidates",
        "settings",
        "nearest",
        "template",
        "resamples",
        "kind",
        "limit",
        "per_example",
    )
    check_options("vqa", options, known, required=("data",))
    mode = options.get("mode", MODES[0])
    if mode not in MODES:
        raise UserError(f"mode = {mode!r}; valid: {', '.join(MODES)}")
    if (mode == "generate") == ("candidates" in options):
        raise UserError(f"mode {mode!r} {'takes no' if mode == 'generate' else 'needs'} candidates")
    template = options.get("template", "{}")
    if template.count("{}") != 1:
        raise UserError(f"template = {template!r}; valid: a text with one {{}} for the question")
    source, field = tools.open_source(options["data"]), options.get("kind", "answer_type")
    places, asked = list[tuple[int, int]](), list[Asked]()
    for index, example in examples(source, options.get("limit"), tools):
        found = list(_questions(example, field))[: options.get("per_example")]
        if found:
            asked += [Asked(len(places), str(example.get("key", index)), *each) for each in found]
            places.append((index, 0))
    if not asked:
        raise UserError(f"{options['data']} has no question with an answer (`questions`, or `question` and `answers`)")
    defaults = DEFAULTS if tools.ask is None else CHAT_DEFAULTS
    how = tools.how({**defaults, **options.get("settings", {})}) if mode == "generate" else None
    candidates = load_classes(options["candidates"]) if "candidates" in options else ()
    return VQA(
        name, Pictures(source, places, tools.prepare), asked, tools, mode, how, candidates,
        int(options.get("nearest", NEAREST)), template, int(options.get("resamples", 1000)),
    )  # fmt: skip


def _questions(example: Mapping[str, Any], field: str) -> Iterator[tuple[str, list[str], str]]:
    """(question, answers, kind) of an example."""
    if "question" in example:
        answers = example.get("answers") or []
        rows = [(example["question"], answers, str(example.get(field, "")))]
    else:
        rows = [(row[0], row[1], row[2] if len(row) > 2 else "") for row in example.get("questions") or ()]
    for question, answers, kind in rows:
        if question and answers:
            yield question, [answers] if isinstance(answers, str) else list(answers), kind
