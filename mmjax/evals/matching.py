"""Whether a system tells texts that fit an image from those that do not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tokenize, Tools, Value, check_options
from mmjax.evals.bootstrap import mean_and_interval
from mmjax.evals.generated import average_precision
from mmjax.evals.images import Pictures, examples
from mmjax.evals.rerank import encode, match_pairs


@dataclass(frozen=True)
class Matching:
    """The evaluator. Yields `{name}/accuracy` (with `…_lo`, `…_hi`), `precision`, `recall` and `average_precision` of
    "fits", decided by the larger logit.

    Attributes:
      name: prefix of the metrics.
      images: uint8[N, Y, X, 3], or a lazy sequence.
      texts: M texts. pairs: int[K, 2], (image, text). fits: bool[K], the truth.
      tokenize: texts -> (ids, valid).
    """

    name: str
    images: Rows
    texts: list[str]
    pairs: Int[np.ndarray, "K 2"]
    fits: Bool[np.ndarray, " K"]
    tokenize: Tokenize
    resamples: int = 1000

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Matches all pairs and yields (name, value)."""
        states = encode(predictor, self.images, *self.tokenize(self.texts))
        yield from self.score(match_pairs(predictor, states, self.pairs))

    def score(self, logits: Float32[np.ndarray, "K 2"]) -> Iterator[Value]:
        """(name, value) from logits."""
        says = logits[:, 1] > logits[:, 0]
        right, hit = says == self.fits, says & self.fits
        yield from mean_and_interval(f"{self.name}/accuracy", right, self.resamples)
        yield f"{self.name}/precision", float(hit.sum() / max(says.sum(), 1))
        yield f"{self.name}/recall", float(hit.sum() / max(self.fits.sum(), 1))
        margin = logits[:, 1] - logits[:, 0]
        yield f"{self.name}/average_precision", average_precision(margin, self.fits.astype(np.int64))

    def baselines(self) -> dict[str, dict[str, float]]:
        """The commoner verdict for all."""
        share = float(self.fits.mean())
        return {"chance": {f"{self.name}/accuracy": max(share, 1 - share)}}


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Matching:
    """A Matching from the options of a config.

    Options:
      data: source spec. truth: key of an example with a truth value for each of its texts (`caption_is_true` of
        emoji_scenes with noise). Without it, each image's first text fits, and that of the example half the source
        away does not.
      limit, resamples.

    Raises:
      UserError: an unknown, missing or unusable option, or texts without truth values.
    """
    check_options("matching", options, ("data", "truth", "limit", "resamples"), required=("data",))
    source, truth = tools.open_source(options["data"]), options.get("truth")
    places, texts, pairs, fits = list[tuple[int, int]](), list[str](), list[tuple[int, int]](), list[bool]()
    for index, example in examples(source, options.get("limit"), tools):
        image = len(places)
        places.append((index, 0))
        if truth is None:
            pairs.append((image, len(texts)))
            texts.append(example["texts"][0])
            continue
        if truth not in example or len(example[truth]) != len(example["texts"]):
            raise UserError(
                f"example {index} has no truth value {truth!r} for each of its texts; it has {sorted(example)}"
            )
        pairs += [(image, len(texts) + i) for i in range(len(example["texts"]))]
        texts += example["texts"]
        fits += [bool(value) for value in example[truth]]
    if truth is None:
        count = len(texts)
        wrong = [(i, (i + max(count // 2, 1)) % count) for i in range(count)]
        wrong = [(i, j) for i, j in wrong if texts[i] != texts[j]]
        if not wrong:
            raise UserError("there are no two examples with different texts")
        fits = [True] * len(pairs) + [False] * len(wrong)
        pairs = pairs + wrong
    pictures = Pictures(source, places, tools.preprocess)
    return Matching(
        name, pictures, texts, np.asarray(pairs), np.asarray(fits), tools.tokenize, int(options.get("resamples", 1000))
    )
