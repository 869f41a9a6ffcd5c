"""Whether something is in a picture: yes or no, as POPE asks for objects that are not there."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals import asked as asking
from mmjax.evals.asked import CHAT_DEFAULTS, Asked, Shown
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options
from mmjax.evals.caption import Written
from mmjax.evals.words.answers import pope, says_yes

METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
SHORT = "{}\nAnswer the question using a single word or phrase."  # LLaVA-1.5's words


@dataclass(frozen=True)
class Presence:
    """The evaluator. Yields `{name}/accuracy`, `precision`, `recall`, `f1` (of yes) and `yes_ratio`: the means over the
    kinds of questions (POPE: random, popular, adversarial), and where there are several `{name}/{metric}/{kind}`, too.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, of a lazy sequence. asked: the questions; answers are "yes" or "no".
      how: settings of generation. template: what is put around a question, with one `{}`.

    Source: Li et al., Evaluating Object Hallucination in LVLMs (POPE), §5; LLaVA's eval_pope.py reads the answers.
    """

    name: str
    images: Rows
    asked: Sequence[Asked]
    tools: Tools
    how: Hashable
    template: str = SHORT

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Answers all questions and yields (name, value)."""
        yield from self.score(self.write(predictor))[0]

    def write(self, predictor: Predictor) -> list[str]:
        """An answer to each question."""
        questions = [self.template.replace("{}", each.question) for each in self.asked]
        pictures = Shown(self.images, [each.image for each in self.asked])
        return asking.write(predictor, self.tools, questions, pictures, self.how)

    def score(self, answers: Sequence[str]) -> tuple[list[Value], list[Written]]:
        """Metrics, and every answer with 1 where it is right, else 0."""
        kinds: dict[str, list[int]] = {}
        for place, question in enumerate(self.asked):
            kinds.setdefault(question.kind, []).append(place)
        found = {kind: pope([answers[i] for i in places], [self.asked[i].answers[0] for i in places])
                 for kind, places in kinds.items()}  # fmt: skip
        values: list[Value] = []
        for metric in METRICS:
            each = {kind: float(getattr(scores, metric)) for kind, scores in found.items()}
            values.append((f"{self.name}/{metric}", float(np.mean(list(each.values())))))
            if len(each) > 1:
                values += [(f"{self.name}/{metric}/{kind}", value) for kind, value in each.items()]
        written = [Written(q.image, q.key, a, q.answers, float(says_yes(a) == (q.answers[0] == "yes")), q.question)
                   for q, a in zip(self.asked, answers, strict=True)]  # fmt: skip
        return values, written

    def baselines(self) -> dict[str, dict[str, float]]:
        """Yes to everything."""
        return {"always yes": dict(self.score(["yes"] * len(self.asked))[0])}


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Presence:
    """A Presence from the options of a config.

    Options:
      data: source spec; examples hold `question` and `answers`, or `questions`, all answered with "yes" or "no".
      settings: of generation, greedy unless told. template: see Presence; default LLaVA-1.5's request.
      kind: key of an example by which the scores are split, default `question_type`.
      limit: at most this many examples.

    Raises:
      UserError: an unknown, missing or unusable option, or another answer.
    """
    check_options("pope", options, ("data", "settings", "template", "kind", "limit"), required=("data",))
    template = asking.check_template(options.get("template", SHORT))
    pictures, asked = asking.read(options["data"], options.get("kind", "question_type"), tools, options.get("limit"))
    for question in asked:
        if question.answers[0] not in ("yes", "no"):
            raise UserError(
                f"{question.key}: {question.question!r} has the answer {question.answers[0]!r}; valid: yes, no"
            )
    how = tools.how({**CHAT_DEFAULTS, **options.get("settings", {})})
    return Presence(name, pictures, asked, tools, how, template)
