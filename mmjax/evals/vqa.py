"""Answers to questions about pictures: written freely, ranked among candidates, or chosen by a classifier."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals import asked as asking
from mmjax.evals.asked import CHAT_DEFAULTS, Asked, Shown
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options
from mmjax.evals.bootstrap import mean_and_interval
from mmjax.evals.caption import Written
from mmjax.evals.classes import load_classes
from mmjax.evals.words.answers import by_group, evalai_accuracy, evalai_answer, normalise_answer, vqa_accuracy

MODES = ("generate", "rank", "classify")
DEFAULTS = {"beams": 3, "max_length": 10, "min_length": 1}  # BLIP's
NEAREST = 128

# name of a program -> (accuracy where several people answered, normalisation)
SCORERS: dict[str, tuple[Callable[[str, Sequence[str]], float], Callable[[str], str]]] = {
    "vqa": (vqa_accuracy, normalise_answer),
    "textvqa": (evalai_accuracy, evalai_answer),
}


def accuracy(prediction: str, answers: Sequence[str], scorer: str = "vqa") -> float:
    """VQA's accuracy where several people answered; where one did, 1 if the normalised answers are equal."""
    several, normalise = SCORERS[scorer]
    if len(answers) > 1:
        return several(prediction, answers)
    return float(normalise(prediction) == normalise(answers[0]))


@dataclass(frozen=True)
class VQA:
    """The evaluator. Yields `{name}/accuracy` with `…_lo`, `…_hi`, and `{name}/accuracy/{kind}` of each kind.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, of a lazy sequence. asked: the questions.
      mode: one of MODES. candidates: the answers to rank, or the names of the classes.
      nearest: of the candidates, how many are ranked by the whole answer.
      template: what is put around a question, with one `{}`.
      scorer: key of SCORERS, whose normalisation of answers holds.
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
    scorer: str = "vqa"

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
        pictures = Shown(self.images, [each.image for each in self.asked])
        if self.mode == "generate":
            return asking.write(predictor, self.tools, questions, pictures, self.how)
        batch = asking.batch_of(self.tools, questions, pictures)
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
        each = np.array([accuracy(a, q.answers, self.scorer) for a, q in zip(answers, self.asked, strict=True)])
        label = f"{self.name}/accuracy"
        values: list[Value] = mean_and_interval(label, each, self.resamples)
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


def build(name: str, options: Mapping[str, Any], tools: Tools) -> VQA:
    """A VQA from the options of a config.

    Options:
      data: source spec; examples hold `questions`, or `question` with `answers`.
      mode: "generate" (default), "rank" or "classify"; candidates: answers, or a file of them, for the latter two.
      settings: of generation, default beam search as BLIP's, or of a system that reads conversations greedy.
      nearest, template, resamples, scorer: see VQA.
      ocr: whether what was read in a picture (`ocr_tokens`) stands behind the question.
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
        "scorer",
        "ocr",
    )
    check_options("vqa", options, known, required=("data",))
    mode = options.get("mode", MODES[0])
    if mode not in MODES:
        raise UserError(f"mode = {mode!r}; valid: {', '.join(MODES)}")
    if (mode == "generate") == ("candidates" in options):
        raise UserError(f"mode {mode!r} {'takes no' if mode == 'generate' else 'needs'} candidates")
    if (scorer := options.get("scorer", "vqa")) not in SCORERS:
        raise UserError(f"scorer = {scorer!r}; valid: {', '.join(SCORERS)}")
    template = asking.check_template(options.get("template", "{}"))
    pictures, asked = asking.read(options["data"], options.get("kind", "answer_type"), tools, options.get("limit"),
                                  options.get("per_example"), bool(options.get("ocr", False)))  # fmt: skip
    defaults = DEFAULTS if tools.ask is None else CHAT_DEFAULTS
    how = tools.how({**defaults, **options.get("settings", {})}) if mode == "generate" else None
    candidates = load_classes(options["candidates"]) if "candidates" in options else ()
    return VQA(
        name, pictures, asked, tools, mode, how, candidates,
        int(options.get("nearest", NEAREST)), template, int(options.get("resamples", 1000)), scorer,
    )  # fmt: skip
