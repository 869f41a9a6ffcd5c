"""Answers of any length, written to a file that judges outside read: LLaVA-Bench's and MM-Vet's programs."""

import json
import pathlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mmjax.core import files
from mmjax.core.errors import UserError
from mmjax.evals import asked as asking
from mmjax.evals.asked import Shown
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options, seeds
from mmjax.evals.images import Pictures, examples

DEFAULTS = {"max_new": 1024}  # LLaVA's; greedy


@dataclass(frozen=True)
class Freeform:
    """The evaluator. Yields `{name}/answers`, how many were written to `file`, and `{name}/words`, their mean length.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, of a lazy sequence. places: of each question's picture there; None: it has
        none.
      questions: what is asked. ids: the questions' names, as the data give them.
      how: settings of generation. seed: of sampling.
      file: FILE.jsonl gets a line of question_id, prompt and text for each question (LLaVA-Bench), FILE.json a mapping
        from question_id to text (MM-Vet); an earlier one is replaced.
    """

    name: str
    images: Rows
    places: Sequence[int | None]
    questions: Sequence[str]
    ids: Sequence[Any]
    tools: Tools
    how: Hashable
    file: pathlib.Path
    seed: int = 0

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Writes all answers and yields (name, value)."""
        drawn = seeds(self.seed, len(self.questions))
        texts = asking.write(predictor, self.tools, self.questions, Shown(self.images, self.places), self.how, drawn)
        if jax.process_index() == 0:
            files.write_text(self.file, self._spelled(texts))
        yield f"{self.name}/answers", float(len(texts))
        yield f"{self.name}/words", float(np.mean([len(text.split()) for text in texts]))

    def _spelled(self, texts: Sequence[str]) -> str:
        if self.file.suffix == ".json":
            named = {str(number): text for number, text in zip(self.ids, texts, strict=True)}
            return json.dumps(named, indent=1, ensure_ascii=False) + "\n"
        rows = zip(self.ids, self.questions, texts, strict=True)
        lines = [json.dumps({"question_id": number, "prompt": prompt, "text": text}, ensure_ascii=False)
                 for number, prompt, text in rows]  # fmt: skip
        return "\n".join(lines) + "\n"

    def baselines(self) -> dict[str, dict[str, float]]:
        """None: nothing is scored here."""
        return {}


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Freeform:
    """A Freeform from the options of a config.

    Options:
      data: source spec; examples hold `question`, and may hold `question_id` and a picture.
      file: see Freeform. template: what is put around a question, with one `{}`.
      settings: of generation, default greedy with at most 1,024 new tokens. seed. limit.

    Raises:
      UserError: an unknown, missing or unusable option, or an example without a question.
    """
    known = ("data", "file", "template", "settings", "seed", "limit")
    check_options("freeform", options, known, required=("data", "file"))
    file = pathlib.Path(str(options["file"]))
    if file.suffix not in (".jsonl", ".json"):
        raise UserError(f"file = {str(file)!r}; valid: a path that ends in .jsonl (lines) or .json (a mapping)")
    if not file.absolute().parent.is_dir():
        raise UserError(f"file = {str(file)!r}: there is no folder {file.absolute().parent}")
    template = asking.check_template(options.get("template", "{}"))
    source, places = tools.open_source(options["data"]), list[tuple[int, int]]()
    questions, ids, seen = list[str](), list[Any](), list[int | None]()
    for index, example in examples(source, options.get("limit"), tools):
        if not example.get("question"):
            raise UserError(f"example {index} of {options['data']} has no 'question'; it has {sorted(example)}")
        pictured = "image" in example or "images" in example
        if not pictured and tools.ask is None:
            raise UserError(f"example {index} of {options['data']} has no picture, and the system needs one")
        seen.append(len(places) if pictured else None)
        places += [(index, 0)] if pictured else []
        questions.append(template.replace("{}", example["question"]))
        ids.append(example.get("question_id", example.get("key", index)))
    if len(set(map(str, ids))) < len(ids):
        raise UserError(f"{options['data']} has two questions of one question_id")
    how = tools.how({**DEFAULTS, **options.get("settings", {})})
    pictures = Pictures(source, places, tools.prepare)
    return Freeform(name, pictures, seen, questions, ids, tools, how, file, int(options.get("seed", 0)))
