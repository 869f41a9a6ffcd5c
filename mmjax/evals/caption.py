"""Captions that a system writes, scored against what people wrote (COCO's caption evaluation)."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tools, Value, check_options, seeds
from mmjax.evals.images import Pictures, examples
from mmjax.evals.words.captions import Scores, caption_scores

DEFAULTS = {"beams": 3, "max_length": 20, "min_length": 5}  # BLIP's
CHAT_DEFAULTS = {"max_new": 48}  # of systems that read conversations; greedy, as LLaVA


@dataclass(frozen=True)
class Written:
    """A text that a system wrote, and what stands beside it in a report.

    Attributes:
      image: place among the evaluator's pictures; -1: it is about none.
      text: what was written. question: what was asked, or "".
      right: what people wrote. score: of this one; what it is, the evaluator says.
    """

    image: int
    key: str
    text: str
    right: Sequence[str]
    score: float
    question: str = ""


@dataclass(frozen=True)
class Captions:
    """The evaluator. Yields `{name}/Bleu_1` … `Bleu_4`, `ROUGE_L`, `CIDEr`, and `{name}/words`, the mean length.

    CIDEr is not multiplied by 100, and its document frequencies are those of this set's references.

    Attributes:
      name: prefix of the metrics.
      images: as `Tools.prepare` gives them, or a lazy sequence of these. keys: their names.
      references: of each image, at least one.
      prompt: what every caption begins with, not part of the caption; None: what the system begins with by itself.
      how: settings of generation. tools: tokens and text.
      seed: of sampling.
    """

    name: str
    images: Rows
    keys: Sequence[str]
    references: Sequence[Sequence[str]]
    tools: Tools
    how: Hashable
    prompt: str | None = None
    seed: int = 0

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Writes all captions and yields (name, value)."""
        yield from self.score(self.write(predictor))[0]

    def write(self, predictor: Predictor) -> list[str]:
        """A caption of each image."""
        return write_captions(predictor, self.tools, self.images, self.how, self.prompt, self.seed)

    def score(self, captions: Sequence[str]) -> tuple[list[Value], list[Written]]:
        """Metrics, and every caption with its own CIDEr."""
        scores: Mapping[str, Scores] = caption_scores(captions, self.references)
        values = [(f"{self.name}/{metric}", score.corpus) for metric, score in scores.items()]
        values.append((f"{self.name}/words", float(np.mean([len(caption.split()) for caption in captions]))))
        rows = zip(self.keys, captions, self.references, scores["CIDEr"].each, strict=True)
        return values, [Written(i, *row) for i, row in enumerate(rows)]

    def baselines(self) -> dict[str, dict[str, float]]:
        """Each image's caption is the first reference of the image half the set away."""
        count = len(self.references)
        others = [self.references[(i + max(count // 2, 1)) % count][0] for i in range(count)]
        return {"another image's caption": dict(self.score(others)[0])}


def write_captions(
    predictor: Predictor,
    tools: Tools,
    images: Rows,
    how: Hashable,
    prompt: str | None = None,
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """A text for each image, by the system's `generate`.

    Args:
      prompt: what each begins with, not part of what is returned; None: what the system begins with by itself. Of a
        system that reads conversations, what is asked.
      seed: of sampling: one, of which each image gets its own, or one for each image.

    Raises:
      UserError: the system does not write.
    """
    predictor.check("generate")
    count = len(images)
    batch: dict[str, Rows] = {"image": images}
    if tools.ask is not None:
        batch = dict(tools.ask([prompt or ""] * count, images))
    elif prompt is not None:
        ids, valid = tools.begin([prompt])
        batch |= {"ids": np.repeat(ids, count, axis=0), "valid": np.repeat(valid, count, axis=0)}
    batch["seed"] = seeds(seed, count) if isinstance(seed, int) else np.asarray(seed, np.uint32)
    return tools.written(predictor.over("generate", batch, how))


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Captions:
    """A Captions from the options of a config.

    Options:
      data: source spec; the references are the examples' `texts`, or what `references` names.
      prompt: unless told, the system's own. settings: of generation, default beam search as BLIP's, or of a system that
        reads conversations greedy. seed. limit.

    Raises:
      UserError: an unknown, missing or unusable option.
    """
    known = ("data", "references", "prompt", "settings", "seed", "limit")
    check_options("caption", options, known, required=("data",))
    source, field = tools.open_source(options["data"]), options.get("references", "texts")
    places, keys, references = list[tuple[int, int]](), list[str](), list[list[str]]()
    for index, example in examples(source, options.get("limit"), tools):
        if not example.get(field):
            raise UserError(f"example {index} has no {field!r} to compare with; it has {sorted(example)}")
        places.append((index, 0))
        keys.append(str(example.get("key", index)))
        references.append(list(example[field]))
    how = tools.how({**(DEFAULTS if tools.ask is None else CHAT_DEFAULTS), **options.get("settings", {})})
    pictures = Pictures(source, places, tools.prepare)
    return Captions(name, pictures, keys, references, tools, how, options.get("prompt"), int(options.get("seed", 0)))
