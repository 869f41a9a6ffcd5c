"""Questions about pictures: read from a source, answered by whatever system writes."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tools
from mmjax.evals.images import Pictures, examples

CHAT_DEFAULTS = {"max_new": 16}  # of systems that read conversations; greedy, as LLaVA
REFERENCE = "\nReference OCR token: "  # LLaVA's words, with the tokens behind them

NOTHING = np.zeros((1, 1, 3), np.uint8)  # in the place of a picture that a question does not have


class Asked(NamedTuple):
    """One question."""

    image: int  # place among the pictures
    key: str
    question: str
    answers: Sequence[str]  # of the annotators, one entry each
    kind: str  # type of the question or of the answer, "" where the data have none


class Shown:
    """A picture for each question; a picture of several is read once. None: the question has none."""

    def __init__(self, images: Rows, places: Sequence[int | None]):
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Any:
        place = self._places[index]
        return NOTHING if place is None else self._images[place]

    @property
    def seen(self) -> list[bool]:
        """Which questions have a picture."""
        return [place is not None for place in self._places]


def read(data: str, field: str, tools: Tools, limit: int | None = None, most: int | None = None,
         ocr: bool = False) -> tuple[Pictures, list[Asked]]:  # fmt: skip
    """The questions of a source that have an answer, and their pictures.

    Args:
      data: source spec; examples hold `questions`, or `question` with `answers`.
      field: key of an example that says the kind of its question.
      limit: at most this many examples; most: at most so many questions of each, the first ones.
      ocr: the tokens that were read in a picture stand behind the question.

    Raises:
      UserError: no question with an answer, or no such tokens.
    """
    source = tools.open_source(data)
    places, asked = list[tuple[int, int]](), list[Asked]()
    for index, example in examples(source, limit, tools):
        found = list(_questions(example, field))[:most]
        if ocr and found and "ocr_tokens" not in example:
            raise UserError(f"example {index} of {data} has no 'ocr_tokens'; it has {sorted(example)}")
        behind = REFERENCE + ", ".join(example["ocr_tokens"]) if ocr and example.get("ocr_tokens") else ""
        if found:
            key = str(example.get("key", index))
            asked += [Asked(len(places), key, text + behind, answers, kind) for text, answers, kind in found]
            places.append((index, 0))
    if not asked:
        raise UserError(f"{data} has no question with an answer (`questions`, or `question` and `answers`)")
    return Pictures(source, places, tools.prepare), asked


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


def batch_of(
    tools: Tools, questions: Sequence[str], pictures: Shown, answers: Sequence[str] | None = None
) -> dict[str, Rows]:
    """What a system reads of questions and their pictures; of one that reads conversations, with answers to them.

    Raises:
      UserError: a question without a picture, or an answer, for a system that reads no conversations.
    """
    if tools.ask is not None:
        return dict(tools.ask(questions, pictures, answers, pictures.seen))
    if answers is not None or not all(pictures.seen):
        what = "answers can be weighed" if answers is not None else "a question without a picture can be asked"
        raise UserError(f"{what} of a system alone that reads conversations")
    ids, valid = tools.tokenize(questions)
    return {"image": pictures, "ids": ids, "valid": valid}


def write(
    predictor: Predictor, tools: Tools, questions: Sequence[str], pictures: Shown, how: Hashable,
    seed: np.ndarray | None = None,
) -> list[str]:  # fmt: skip
    """An answer to each question; `seed`: uint32, of sampling, one each."""
    predictor.check("generate")
    batch = batch_of(tools, questions, pictures)
    batch["seed"] = np.arange(len(questions), dtype=np.uint32) if seed is None else seed
    return tools.written(predictor.over("generate", batch, how))


def check_template(template: Any) -> str:
    """What is put around a question, if it has one {} for it; UserError if not."""
    if not isinstance(template, str) or template.count("{}") != 1:
        raise UserError(f"template = {template!r}; valid: a text with one {{}} for the question")
    return template
