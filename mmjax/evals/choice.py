"""Questions with answers to choose from, as ScienceQA and MMBench ask them: a letter is written, or weighed."""

import itertools
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mmjax.core.errors import UserError
from mmjax.evals import asked as asking
from mmjax.evals.asked import CHAT_DEFAULTS, Shown
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options
from mmjax.evals.bootstrap import mean_and_interval
from mmjax.evals.caption import Written
from mmjax.evals.images import Pictures, examples
from mmjax.evals.words.answers import by_group

LETTERS = "ABCDEFGHIJ"
MODES = ("generate", "likelihood")
OF = ("letter", "text")
FORMS = ("lines", "cqm")
SHORT = "Answer with the option's letter from the given choices directly."  # LLaVA-1.5's words
_SAID = re.compile(r"The answer is ([A-Z]).")


class Problem(NamedTuple):
    """One question.

    Attributes:
      image: place among the pictures; None: it has none.
      question: as it is asked, choices and all.
      right: number of the right choice.
      group: name of the question, whatever the order of its choices.
    """

    image: int | None
    key: str
    question: str
    choices: Sequence[str]
    right: int
    kind: str
    group: str


def letter_of(text: str, count: int) -> int:
    """The choice that an answer names, of `count`; -1: none.

    The answer is a letter; or begins with a letter, a period and a blank; or says once "The answer is X." (whatever the
    last character is).

    Source: LLaVA's eval_science_qa.py.

    Example:
      >>> letter_of("B. a dog", 3), letter_of("The answer is C.", 3), letter_of("a dog", 3)
      (1, 2, -1)
    """
    letters = list(LETTERS)
    if text[:1] in letters and (len(text) == 1 or text[1:3] == ". "):
        said = text[0]
    else:
        found = _SAID.findall(text)
        said = found[0] if len(found) == 1 else ""
    return letters.index(said) if said in letters[:count] else -1


def asked(question: str, choices: Sequence[str], hint: str, form: str) -> str:
    """A question with its choices.

    Args:
      form: "lines" (MMBench's in LLaVA's scripts: the hint, the question, "A. …" on a line each) or "cqm" (ScienceQA's:
        "Context: …", "Question: …", "Options: (A) … (B) …").
    """
    if form == "cqm":
        options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        whole = f"Context: {hint.strip() or 'N/A'}\nQuestion: {question}\nOptions: {options}"
        return whole.replace("  ", " ").strip()
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([*([hint] if hint else []), question, *lines])


@dataclass(frozen=True)
class Choice:
    """The evaluator. Yields `{name}/accuracy` with `…_lo`, `…_hi`, `accuracy/{kind}` of each kind of question, and
    `accuracy/picture` and `accuracy/text` where some have no picture; of answers that are written `parsed`, the share
    that names a choice (one that does not is wrong); and where a question is asked with its choices in several orders
    `circular`, the share of the questions that are right in all of them.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, of a lazy sequence.
      mode: one of MODES. of: whether letters or the choices themselves are compared in the mode "likelihood", and
        per_token: by the mean of their tokens' log-probabilities, or by the sum.
      short: said behind the question, on a line of its own; "": nothing.

    Source: MMBench (Liu et al.), §4.2 (circular evaluation); LLaVA-1.5, §3.4 and its scripts (words, letters).
    """

    name: str
    images: Rows
    problems: Sequence[Problem]
    tools: Tools
    mode: str = MODES[0]
    how: Hashable = None
    short: str = SHORT
    of: str = OF[0]
    per_token: bool = False
    resamples: int = 1000

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Answers all questions and yields (name, value)."""
        yield from self.score(self.write(predictor))[0]

    def write(self, predictor: Predictor) -> list[str]:
        """An answer to each question; in the mode "likelihood" the likeliest letter."""
        questions = [f"{each.question}\n{self.short}" if self.short else each.question for each in self.problems]
        if self.mode == "generate":
            pictures = Shown(self.images, [each.image for each in self.problems])
            return asking.write(predictor, self.tools, questions, pictures, self.how)
        return [LETTERS[place] for place in self._likeliest(predictor, questions)]

    def _likeliest(self, predictor: Predictor, questions: Sequence[str]) -> Int[np.ndarray, " N"]:
        """The choice of each question that the system would most likely have written; of several, the first."""
        predictor.check("likelihood")
        rows = [(place, number) for place, each in enumerate(self.problems) for number in range(len(each.choices))]
        answers = [LETTERS[number] if self.of == "letter" else self.problems[place].choices[number]
                   for place, number in rows]  # fmt: skip
        pictures = Shown(self.images, [self.problems[place].image for place, _ in rows])
        batch = asking.batch_of(self.tools, [questions[place] for place, _ in rows], pictures, answers)
        most = int(np.asarray(batch["mask_loss"]).sum(axis=1).max())
        made = predictor.over("likelihood", batch, most)
        scores = made["log"] / np.maximum(made["count"], 1) if self.per_token else made["log"]
        begins = np.cumsum([0, *(len(each.choices) for each in self.problems)])
        return np.array([scores[a:b].argmax() for a, b in itertools.pairwise(begins)])

    def score(self, answers: Sequence[str]) -> tuple[list[Value], list[Written]]:
        """Metrics, and every answer with 1 where it is right, else 0."""
        chosen = [letter_of(answer, len(p.choices)) for answer, p in zip(answers, self.problems, strict=True)]
        each = np.array([float(c == p.right) for c, p in zip(chosen, self.problems, strict=True)])
        label = f"{self.name}/accuracy"
        values: list[Value] = mean_and_interval(label, each, self.resamples)
        groups = by_group(each.tolist(), [problem.kind for problem in self.problems])
        values += [(f"{label}/{kind}", value) for kind, value in groups.items() if kind]
        pictured = ["text" if problem.image is None else "picture" for problem in self.problems]
        if "text" in pictured:
            values += [(f"{label}/{kind}", value) for kind, value in by_group(each.tolist(), pictured).items()]
        if self.mode == "generate":
            values.append((f"{self.name}/parsed", float(np.mean([c >= 0 for c in chosen]))))
        if (whole := self._circular(each)) is not None:
            values.append((f"{self.name}/circular", whole))
        written = [Written(-1 if p.image is None else p.image, p.key, a, [LETTERS[p.right]], float(s), p.question)
                   for p, a, s in zip(self.problems, answers, each, strict=True)]  # fmt: skip
        return values, written

    def _circular(self, each: np.ndarray) -> float | None:
        """The mean over the questions of the product over their orders; None if each is asked once."""
        groups: dict[str, float] = {}
        for value, problem in zip(each, self.problems, strict=True):
            groups[problem.group] = groups.get(problem.group, 1.0) * float(value)
        return float(np.mean(list(groups.values()))) if len(groups) < len(self.problems) else None

    def baselines(self) -> dict[str, dict[str, float]]:
        """A choice drawn by chance."""
        luck = np.array([1 / len(problem.choices) for problem in self.problems])
        values = {f"{self.name}/accuracy": float(luck.mean())}
        if (whole := self._circular(luck)) is not None:
            values[f"{self.name}/circular"] = whole
        return {"chance": values}


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Choice:
    """A Choice from the options of a config.

    Options:
      data: source spec; examples hold `question`, `choices` and `label`, and may hold `hint`, `prompt` (the question as
        it is asked, choices and all), `group` and a picture.
      mode: "generate" (default) or "likelihood". settings: of generation, greedy unless told.
      of, per_token: see Choice; per_token is True for the choices themselves unless told.
      form: see `asked`, default "lines". short: default LLaVA-1.5's request for a letter.
      circular: ask every question with its choices in every rotation.
      kind: key of an example by which accuracies are split, default `question_type`.
      limit: at most this many examples. resamples.

    Raises:
      UserError: an unknown, missing or unusable option, or an example that does not say what is right.
    """
    known = ("data", "mode", "settings", "of", "per_token", "form", "short", "circular", "kind", "limit", "resamples")
    check_options("choice", options, known, required=("data",))
    chosen = {}
    for key, valid in (("mode", MODES), ("of", OF), ("form", FORMS)):
        chosen[key] = options.get(key, valid[0])
        if chosen[key] not in valid:
            raise UserError(f"{key} = {chosen[key]!r}; valid: {', '.join(valid)}")
    idle = {"settings"} if chosen["mode"] == "likelihood" else {"of", "per_token"}
    if wrong := sorted(idle & set(options)):
        raise UserError(f"the mode {chosen['mode']!r} takes no {wrong[0]!r}")
    source, places = tools.open_source(options["data"]), list[tuple[int, int]]()
    problems = list[Problem]()
    for index, example in examples(source, options.get("limit"), tools):
        place = None
        if "image" in example or "images" in example:
            place = len(places)
            places.append((index, 0))
        elif tools.ask is None:
            raise UserError(f"example {index} of {options['data']} has no picture, and the system needs one")
        problems += _problems(example, index, place, options, chosen["form"])
    if options.get("circular") and len({p.group for p in problems}) < len({p.key for p in problems}):
        raise UserError(f"{options['data']} has its questions in several orders by itself: leave circular out")
    generates = chosen["mode"] == "generate"
    how = tools.how({**CHAT_DEFAULTS, **options.get("settings", {})}) if generates else None
    return Choice(
        name, Pictures(source, places, tools.prepare), problems, tools, chosen["mode"], how,
        str(options.get("short", SHORT)), chosen["of"], bool(options.get("per_token", chosen["of"] == "text")),
        int(options.get("resamples", 1000)),
    )  # fmt: skip


def _problems(
    example: Mapping[str, Any], index: int, place: int | None, options: Mapping[str, Any], form: str
) -> Iterator[Problem]:
    """The questions of an example: one, or one of each rotation of its choices."""
    missing = [key for key in ("question", "choices", "label") if key not in example]
    if missing:
        raise UserError(f"example {index} of {options['data']} has no {missing[0]!r}; it has {sorted(example)}")
    choices, right, key = list(example["choices"]), int(example["label"]), str(example.get("key", index))
    if not 2 <= len(choices) <= len(LETTERS) or not 0 <= right < len(choices):
        raise UserError(
            f"example {index}: {len(choices)} choices, of which {right} is right; valid: 2 to {len(LETTERS)}"
        )
    circular = bool(options.get("circular"))
    if circular and "prompt" in example:
        raise UserError(
            f"example {index} says the words that it is asked in: they cannot be turned; leave circular out"
        )
    kind, group = str(example.get(options.get("kind", "question_type"), "")), str(example.get("group", key))
    for turn in range(len(choices) if circular else 1):
        turned = choices[turn:] + choices[:turn]
        question = example.get("prompt") or asked(example["question"], turned, example.get("hint", ""), form)
        yield Problem(place, key, question, turned, (right - turn) % len(choices), kind, group)
