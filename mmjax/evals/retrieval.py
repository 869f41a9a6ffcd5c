"""Image-text retrieval in both directions, with any number of right answers per query.

Protocol (CLIP §3.1, Karpathy & Fei-Fei's COCO and Flickr30k splits): cosine similarity over the full gallery, no
re-ranking; R@k is the share of queries with a right answer among the first k.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Rows, Tokenize, Tools, Value, check_options
from mmjax.evals.bootstrap import intervals, mean_and_interval
from mmjax.evals.images import Pictures, alternatives, examples
from mmjax.evals.pixel_match import nearest_pixels
from mmjax.evals.prompts import PLAIN, embed_ensemble, load_templates, normalise
from mmjax.evals.ranking import best_ranks, chance_recall, group_pairs

DIRECTIONS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class RetrievalData:
    """Pictures, texts, and which belong together.

    Attributes:
      images: uint8[N, Y, X, 3], or a sequence of uint8[Y, X, 3] that is read lazily.
      texts: M texts.
      pairs: int64[K, 2], (image, text) of every right answer. An image or a text in no pair is a distractor: it stands
        in the gallery and asks no question.
      text_images: a picture for each text, for the report only.
      references: pictures that matching by pixels may look at, none of them a query; the baseline of style transfer.
      reference_texts: int64[R], the text of each reference.
    """

    images: Rows
    texts: Sequence[str]
    pairs: Int[np.ndarray, "K 2"]
    text_images: Rows | None = None
    references: Rows = ()
    reference_texts: Int[np.ndarray, " R"] | None = None

    def __post_init__(self) -> None:
        sizes = np.asarray([len(self.images), len(self.texts)])
        if not len(self.pairs):
            raise UserError("retrieval needs at least one pair of an image and a text that belong together")
        if (self.pairs < 0).any() or (self.pairs >= sizes[None, :]).any():
            raise UserError(f"a pair names an image or text outside {sizes[0]} images and {sizes[1]} texts")

    def answers(self, direction: str) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, "Q P"], Int[np.ndarray, " Q"]]:
        """(which items ask, their right answers padded with -1, how many), for one of DIRECTIONS."""
        forward = direction == DIRECTIONS[0]
        size = len(self.images) if forward else len(self.texts)
        answers, count = group_pairs(self.pairs if forward else self.pairs[:, ::-1], size)
        asks = np.flatnonzero(count)
        return asks, answers[asks], count[asks]


@dataclass(frozen=True)
class Retrieval:
    """The evaluator. Yields, for each direction, with 95 % bootstrap intervals over queries:

    `{name}/image_to_text_R@1`, `…_R@1_lo`, `…_R@1_hi`, …, `{name}/image_to_text_median_rank`.

    Attributes:
      name: prefix of the metrics.
      data: pictures, texts and pairs.
      tokenize: texts -> (ids, valid).
      templates: prompt ensemble put around every text; ("{}",) takes the texts as they are.
      ks: cut-offs.
      resamples: bootstrap samples; 0 leaves the intervals out. seed: theirs.
    """

    name: str
    data: RetrievalData
    tokenize: Tokenize
    templates: Sequence[str] = PLAIN
    ks: Sequence[int] = (1, 5, 10)
    resamples: int = 1000
    seed: int = 0

    def run(self, predictor: Predictor) -> Iterator[Value]:
        """Embeds everything and yields (name, value)."""
        yield from self.score(*self.embed(predictor))

    def embed(self, predictor: Predictor) -> tuple[Float32[np.ndarray, "N E"], Float32[np.ndarray, "M E"]]:
        """Unit embeddings of all images and of all texts."""
        texts = embed_ensemble(predictor, self.tokenize, self.data.texts, self.templates)
        return normalise(predictor.embed_image(self.data.images)), texts

    def ranks(
        self, images: Float32[np.ndarray, "N E"], texts: Float32[np.ndarray, "M E"], direction: str
    ) -> Int[np.ndarray, " Q"]:
        """Rank of the best right answer for everything that asks, in the order of `data.answers(direction)`."""
        asks, answers, _ = self.data.answers(direction)
        queries, gallery = (images, texts) if direction == DIRECTIONS[0] else (texts, images)
        return best_ranks(queries[asks], gallery, answers)

    def score(self, images: Float32[np.ndarray, "N E"], texts: Float32[np.ndarray, "M E"]) -> Iterator[Value]:
        """(name, value) from embeddings."""
        for direction in DIRECTIONS:
            ranks = self.ranks(images, texts, direction)
            hits = ranks[None, :] <= np.asarray(self.ks)[:, None]
            bounds = intervals(hits, resamples=self.resamples, seed=self.seed) if self.resamples else None
            for i, k in enumerate(self.ks):
                label = f"{self.name}/{direction}_R@{k}"
                yield label, float(hits[i].mean())
                if bounds is not None:
                    yield f"{label}_lo", float(bounds[i, 0])
                    yield f"{label}_hi", float(bounds[i, 1])
            yield f"{self.name}/{direction}_median_rank", float(np.median(ranks))

    def baselines(self) -> dict[str, dict[str, float]]:
        """What needs no learning scores, under the same names: "chance", and "pixel match" if there are references."""
        data, chance = self.data, dict[str, float]()
        for direction in DIRECTIONS:
            _, _, count = data.answers(direction)
            gallery = len(data.texts) if direction == DIRECTIONS[0] else len(data.images)
            chance |= {f"{self.name}/{direction}_R@{k}": chance_recall(count, gallery, k) for k in self.ks}
        if data.reference_texts is None:
            return {"chance": chance}
        asks, answers, _ = data.answers(DIRECTIONS[0])
        found = data.reference_texts[nearest_pixels([data.images[int(i)] for i in asks], data.references)]
        right = (answers == found[:, None]).any(axis=1)
        label = f"{self.name}/{DIRECTIONS[0]}_R@1"
        matched = dict(mean_and_interval(label, right, self.resamples, self.seed))
        return {"chance": chance, "pixel match": matched}


def captioned(source: Any, tools: Tools, *, limit: int | None = None, duplicates: str = "shared") -> RetrievalData:
    """Every example's pictures against every example's texts.

    Args:
      source: examples with `image` or `images`, and `texts`.
      duplicates: texts that read the same cannot be told apart. "shared": each is right for the images of all of them;
        "separate": only for its own image, as published numbers count (a tie with a twin is then a mistake).
      limit: at most this many examples, spread evenly over the source.

    Raises:
      UserError: an example without a text, or a wrong `duplicates`.
    """
    if duplicates not in ("shared", "separate"):
        raise UserError(f"duplicates={duplicates!r} is not one of ['separate', 'shared']")
    places: list[tuple[int, int]] = []
    texts: list[str] = []
    pairs: list[tuple[int, int]] = []
    for index, example in examples(source, limit, tools):
        if not example.get("texts"):
            raise UserError(f"example {example.get('key', index)!r} has no text to retrieve")
        for alternative in range(len(alternatives(example))):
            pairs += [(len(places), len(texts) + i) for i in range(len(example["texts"]))]
            places.append((index, alternative))
        texts += example["texts"]
    if duplicates == "shared":
        pairs = _share(texts, pairs)
    return RetrievalData(Pictures(source, places, tools.preprocess), texts, _pairs(pairs))


def _share(texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs closed under equality of texts."""
    twins: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        twins.setdefault(text, []).append(i)
    return [(image, twin) for image, text in pairs for twin in twins[texts[text]]]


def labelled(
    queries: Any,
    gallery: Any,
    tools: Tools,
    *,
    match: str = "concept",
    limit: int | None = None,
    references: Any = None,
) -> RetrievalData:
    """Pictures of one source against the labels of another: one text per distinct `match` value of the gallery.

    The label is the first text of the first gallery example with that value.

    Args:
      queries: source of the pictures that ask; `limit` takes at most that many examples, spread evenly.
      gallery: source of the labels.
      match: the key by which pictures and labels belong together.
      references: source of pictures in other styles for the baseline of matching by pixels; those whose value the
        gallery lacks are left out.

    Raises:
      UserError: an example without the key `match`, or a query whose value the gallery lacks.
    """
    column: dict[Any, int] = {}
    texts: list[str] = []
    shown: list[tuple[int, int]] = []
    places: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []
    for index, example in examples(gallery, None, tools):
        value = _value(example, match, index, "gallery")
        if value not in column:
            column[value] = len(texts)
            texts.append(example["texts"][0])
            shown.append((index, 0))
    for index, example in examples(queries, limit, tools):
        value = _value(example, match, index, "data")
        if value not in column:
            raise UserError(f"data: {match} {value!r} of example {index} is not in the gallery of {len(texts)} values")
        for alternative in range(len(alternatives(example))):
            pairs.append((len(places), column[value]))
            places.append((index, alternative))
    data = RetrievalData(
        Pictures(queries, places, tools.preprocess), texts, _pairs(pairs), Pictures(gallery, shown, tools.preprocess)
    )
    return data if references is None else _with_references(data, references, column, tools, match)


def _with_references(
    data: RetrievalData, source: Any, column: Mapping[Any, int], tools: Tools, match: str
) -> RetrievalData:
    places: list[tuple[int, int]] = []
    texts: list[int] = []
    for index, example in examples(source, None, tools):
        value = _value(example, match, index, "pixel_match")
        if value in column:
            for alternative in range(len(alternatives(example))):
                places.append((index, alternative))
                texts.append(column[value])
    pictures = Pictures(source, places, tools.preprocess)
    return replace(data, references=pictures, reference_texts=np.asarray(texts, np.int64))


def _value(example: Mapping[str, Any], match: str, index: int, where: str) -> Any:
    if match not in example:
        raise UserError(f"{where}: example {index} has no {match!r} to match by; its keys are {sorted(example)}")
    return example[match]


def _pairs(pairs: Sequence[tuple[int, int]]) -> Int[np.ndarray, "K 2"]:
    return np.asarray(pairs, np.int64).reshape(-1, 2)


OPTIONS = ("data", "gallery", "match", "pixel_match", "duplicates", "limit", "templates", "ks", "resamples")
ONLY_WITH_GALLERY, ONLY_WITHOUT = ("match", "pixel_match"), ("duplicates",)


def build(name: str, options: Mapping[str, Any], tools: Tools) -> Retrieval:
    """A Retrieval from the options of a config.

    Options:
      data: source spec of the pictures (and of the texts, without `gallery`).
      gallery: source spec of the labels; pictures and labels belong together where `match` (default "concept") agrees.
      pixel_match: source spec of pictures in other styles, for the baseline of matching by pixels; with `gallery`.
      duplicates: see captioned; without `gallery`.
      limit: at most this many examples of `data`, spread evenly over it.
      templates: prompt ensemble: a list, a file, or the name of a built-in set.
      ks, resamples: see Retrieval.

    Raises:
      UserError: an unknown, missing or unusable option.
    """
    check_options("retrieval", options, OPTIONS, required=("data",))
    idle = sorted(set(ONLY_WITHOUT if "gallery" in options else ONLY_WITH_GALLERY) & set(options))
    if idle:
        raise UserError(f"{idle} means nothing {'with' if 'gallery' in options else 'without'} the option 'gallery'")
    ks = tuple(int(k) for k in options.get("ks", (1, 5, 10)))
    if not ks or min(ks) < 1:
        raise UserError(f"ks must be positive, not {ks}")
    templates = load_templates(options.get("templates", "plain"))
    source, limit = tools.open_source(options["data"]), options.get("limit")
    if "gallery" in options:
        gallery = tools.open_source(options["gallery"])
        references = tools.open_source(options["pixel_match"]) if "pixel_match" in options else None
        match = options.get("match", "concept")
        data = labelled(source, gallery, tools, match=match, limit=limit, references=references)
    else:
        data = captioned(source, tools, limit=limit, duplicates=options.get("duplicates", "shared"))
    return Retrieval(name, data, tools.tokenize, templates, ks, int(options.get("resamples", 1000)))
