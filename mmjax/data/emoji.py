"""The packaged emoji: 1,911 concepts, drawn in up to three styles and named in five languages.

Noto and Twemoji are the styles to train on; Fluent is held out, to test transfer to a style that was never seen. It is
used only where a spec asks for it by name. Variants of one concept (gender, hair, direction) are in the same split.
Pictures and texts keep their own licences: see packs/emoji/NOTICE.
"""

import functools
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import Example

PACK = Path(__file__).parent / "packs" / "emoji"
TRAIN_STYLES = ("noto", "twemoji")
HELD_OUT_STYLE = "fluent"
STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE)
LANGUAGES = ("en", "zh", "de", "es", "ja")
SPLITS = ("train", "val", "test", "all")


class Concept(NamedTuple):
    """What one emoji shows, whatever the style."""

    id: int  # position in `concepts()` and in the sprite arrays
    key: str  # code points without variation selectors: "1f3c3-200d-2642"
    styles: tuple[str, ...]  # styles that have a picture of it
    group: str  # Unicode's group and subgroup: "people-body", "person-activity"
    subgroup: str
    family: str  # equal for variants of one concept; a family is never divided between splits
    split: str  # train, val or test
    labels: dict[str, str]  # language -> name: "man running"
    tags: dict[str, list[str]]  # language -> keywords


class EmojiExample(Example, total=False):
    """An emoji: one picture for each of the source's styles that has it."""

    concept: int  # Concept.id
    styles: list[str]  # style of each of `images`
    group: str


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All concepts in Unicode's order."""
    table = json.loads(gzip.decompress((PACK / "concepts.json.gz").read_bytes()))
    rows = (row | {"styles": tuple(row["styles"])} for row in table["concepts"])
    return tuple(Concept(id=number, **row) for number, row in enumerate(rows))


@functools.cache
def sprites(style: str) -> UInt8[np.ndarray, "N 64 64 4"]:
    """Pictures of all concepts in one style, by Concept.id: RGB with straight (not premultiplied) alpha.

    Read-only. Concepts that the style lacks are fully transparent: see `available`.

    Raises:
      UserError: there is no such style.
    """
    path = PACK / f"{choose('emoji style', style, STYLES)}.webp"
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGBA"))
    rows, columns = pixels.shape[0] // 64, pixels.shape[1] // 64
    grid = pixels.reshape(rows, 64, columns, 64, 4).swapaxes(1, 2)  # [rows, columns, 64, 64, 4]
    out = grid.reshape(rows * columns, 64, 64, 4)[: len(concepts())].copy()
    out.flags.writeable = False
    return out


def available(style: str) -> Bool[np.ndarray, " N"]:
    """Which concepts a style has pictures of, by Concept.id."""
    choose("emoji style", style, STYLES)
    return np.array([style in concept.styles for concept in concepts()])


def split_concepts(split: str = "all") -> tuple[Concept, ...]:
    """The concepts of a split (train, val, test) or all of them.

    Raises:
      UserError: there is no such split.
    """
    choose("emoji split", split, SPLITS)
    return tuple(concept for concept in concepts() if split in ("all", concept.split))


def concept_labels(split: str = "all", lang: str = "en") -> list[str]:
    """The names of a split's concepts in one language: `concept_labels(split)[example["label"]]` names an example.

    Raises:
      UserError: there is no such split or language.
    """
    choose("emoji language", lang, LANGUAGES)
    return [concept.labels[lang] for concept in split_concepts(split)]


def texts_of(concept: Concept, languages: Sequence[str]) -> list[str]:
    """For each language the label alone, then label and tags: "rocket", "rocket: launch, space, travel"."""
    texts = []
    for lang in languages:
        texts.append(concept.labels[lang])
        tags = [tag for tag in concept.tags[lang] if tag != concept.labels[lang]]
        if tags:
            texts.append(f"{concept.labels[lang]}: {', '.join(tags)}")
    return texts


class EmojiSource:
    """One item per concept, so that no batch holds two pictures of the same concept as a false negative pair."""

    def __init__(self, split: str, styles: tuple[str, ...], languages: tuple[str, ...], name: str) -> None:
        """Use `open`, which checks the arguments."""
        self.name = name
        self.split, self.styles, self.languages = split, styles, languages
        # Sprites stay in the module's cache: a source is pickled into every worker process.
        self._items = tuple(
            (label, concept.id)
            for label, concept in enumerate(split_concepts(split))
            if any(style in concept.styles for style in styles)
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> EmojiExample:
        """The example at a position; `images` are read-only views of the sprites, uint8[64, 64, 4]."""
        label, number = self._items[index]
        concept = concepts()[number]
        styles = [style for style in self.styles if style in concept.styles]
        return {
            "images": [sprites(style)[number] for style in styles],
            "styles": styles,
            "texts": texts_of(concept, self.languages),
            "labels": {lang: concept.labels[lang] for lang in self.languages},
            "tags": {lang: concept.tags[lang] for lang in self.languages},
            "key": concept.key,
            "concept": number,
            "label": label,
            "group": concept.group,
        }

    def class_names(self, lang: str | None = None) -> list[str]:
        """Names of the split's concepts, by `label`, in a language (the source's first unless told)."""
        return concept_labels(self.split, lang or self.languages[0])


def open(arg: str | None = None, *, style: str = ",".join(TRAIN_STYLES), lang: str = "en") -> EmojiSource:
    """The source `emoji[:SPLIT][?style=…&lang=…]`.

    Args:
      arg: train (the default), val, test or all.
      style: one style, or several with commas; the training styles unless told.
      lang: one language, or several with commas (en, zh, de, es, ja).

    Raises:
      UserError: an unknown split, style or language.

    Example:
      >>> source = open("test", style="fluent", lang="en,de")
      >>> source[0]["labels"]
      {'en': 'grinning face', 'de': 'grinsendes Gesicht'}
    """
    split = choose("split of the source emoji", arg or "train", SPLITS)
    styles = _listed("style", style, STYLES)
    languages = _listed("lang", lang, LANGUAGES)
    return EmojiSource(split, styles, languages, f"emoji:{split}?style={','.join(styles)}&lang={','.join(languages)}")


def _listed(option: str, text: str, valid: Sequence[str]) -> tuple[str, ...]:
    """The comma-separated values of an option, each of them valid and none twice."""
    values = tuple(choose(f"{option} of the source emoji", value.strip(), valid) for value in text.split(","))
    if len(set(values)) < len(values):
        raise UserError(f"option {option}={text} of the source emoji names a value twice")
    return values
