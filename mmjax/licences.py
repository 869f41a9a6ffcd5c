"""The licence ledger of a run: its data, its tokenizer and the weights that it began with."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from mmjax import initial
from mmjax.checks import RANDOM
from mmjax.commands import models
from mmjax.weights import licences
from mmjax.weights.licences import Entry

_EMOJI = (
    ("Noto Emoji", "Apache-2.0"),
    ("Twemoji", "CC-BY-4.0"),
    ("Fluent Emoji", "MIT"),
    ("emoji names of emojibase and CLDR", "MIT and Unicode-3.0"),
)
_NOTICE = "mmjax/data/packs/emoji/NOTICE"
_OWN = {"clip_bpe": ("merges of CLIP's tokenizer", "MIT", "mmjax/data/packs/clip_bpe/NOTICE")}


def of_data(spec: str) -> list[Entry]:
    """The terms of a data source, from its notice or from what stands beside its files."""
    name, _, rest = spec.partition(":")
    if name in ("emoji", "emoji_scenes"):
        return [licences.entry("data", f"{name}: {part}", licence, _NOTICE) for part, licence in _EMOJI]
    if name == "easy_vqa":
        return [_package("easy-vqa")]
    if name == "tfds" or not rest:
        return [licences.entry("data", spec, licences.UNKNOWN, "the data set's own page says it")]
    return [{**licences.of_files("data", rest.partition("?")[0]), "name": spec}]


def _package(name: str) -> Entry:
    """The licence that an installed package of data declares."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return licences.entry("data", name, licences.UNKNOWN, f"the package {name} is not installed")
    fields = [about[key] for key in ("License-Expression", "License") if key in about]
    found = next((field.strip().splitlines()[0] for field in fields if field.strip()), licences.UNKNOWN)
    return licences.entry("data", name, found, f"the package {name} {about['Version']}")


def of_tokenizer(spec: str) -> list[Entry]:
    """The terms of a tokenizer's vocabulary."""
    name, _, path = spec.partition(":")
    if name in _OWN and not path:
        what, licence, notice = _OWN[name]
        return [licences.entry("tokenizer", what, licence, notice)]
    return [{**licences.of_files("tokenizer", path or name), "name": spec}]


def of_run(config: Mapping[str, Any]) -> list[Entry]:
    """The ledger of a run: of the weights that it begins with (with all that went into them), of data and tokenizer."""
    found: list[Entry] = []
    for item in initial.entries(config["init"]) if config.get("init") not in (None, "", RANDOM) else []:
        found += [] if item.path == RANDOM else models.licences_of(item.path)
    tokenizer = config.get("tokenizer", {})
    if tokenizer.get("spec"):
        found += of_tokenizer(tokenizer["spec"])
    elif tokenizer.get("train_on"):
        found.append(licences.entry("tokenizer", f"trained on {tokenizer['train_on']}", "that of its texts", "the run"))
    sources = [config.get("data", {})] + [stage.get("data") or {} for stage in config.get("stages", {}).values()]
    for data in sources:
        several = [data.get("train") if isinstance(data, Mapping) else data]
        if isinstance(data, Mapping):
            several += [kind.get("train") for kind in (data.get("alone") or {}).values()]
        for train in several:
            for spec in [train] if isinstance(train, str) and train else list(train or ()):
                found += of_data(spec)
    return licences.merge(found)
