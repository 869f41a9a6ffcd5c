"""The published checkpoints of decoders alone and of LLaVA, as families."""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mmjax.weights import gguf_words, llama_config, llava_config, preprocessors, vocabulary
from mmjax.weights.family import Family, Flat, Origin, Published
from mmjax.weights.gguf_file import GGUFTensors
from mmjax.weights.gguf_llama import gguf_table
from mmjax.weights.layout import Table
from mmjax.weights.llama import llama_table
from mmjax.weights.llava import FORMS, LAYOUTS, form_of, llava_table

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Of the released LLaVA-NeXT, in tiles."""
SystemOf = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _same(origin: Origin | None, layout: str, made: dict[str, Any], system_of: SystemOf) -> dict[str, Any]:
    """The configuration that was read, if it still says the same as the one that was made, which else is written."""
    if origin is None or origin.layout != layout or system_of(origin.config) != system_of(made):
        return made
    return origin.config


# ---------------------------------------------------------------- decoders


def _language_from(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    ends = config.get("eos_token_id", 2)
    listed = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
    return {"name": "language", "llm": llama_config.decoder_from(config, where), "end_ids": listed}


def _recognise_language(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config = published.config
    if config is None or config.get("model_type") not in llama_config.MODELS or llava_config.layout_of(config):
        return None
    system, tensors = _language_from(config, published.where), published.tensors
    if isinstance(tensors, GGUFTensors):
        return system, Origin("gguf", config, form={"words": gguf_words.why_not(tensors.facts)})
    return system, Origin("hf", config)


def _language_table(system: Mapping[str, Any], origin: Origin) -> Table:
    return gguf_table(system["llm"]) if origin.layout == "gguf" else llama_table(system["llm"])


def _language_notes(origin: Origin) -> tuple[str, ...]:
    why = origin.form.get("words")
    return (f"its vocabulary is not read: {why}; a tokenizer comes from elsewhere",) if why else ()


def _language_target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, eos_id: int | None, _paths: Collection[str]
) -> Origin:
    ends = list(system.get("end_ids", (2,)))
    made = {**llama_config.config_from(system["llm"]), "eos_token_id": ends[0] if len(ends) == 1 else ends}
    return Origin(layout, _same(origin, layout, made, _language_from))


LANGUAGE = Family(("hf",), _recognise_language, _language_table, _language_target, notes=_language_notes)


# ---------------------------------------------------------------- LLaVA


def _recognise_llava(published: Published) -> tuple[dict[str, Any], Origin] | None:
    config = published.config
    if config is None or (layout := llava_config.layout_of(config)) is None:
        return None
    system = llava_config.system_from(config, layout, published.where)
    origin = Origin(layout, config, form=form_of(published.tensors.keys(), layout))
    if layout == "hf":
        pixels, how = preprocessors.pixels(published.folder, system), preprocessors.resample(published.folder)
        return system | pixels, origin._replace(resample=how, fit=preprocessors.fit(published.folder))
    return system, origin._replace(fit="pad" if config.get("image_aspect_ratio") == "pad" else "")


def _llava_table(system: Mapping[str, Any], origin: Origin) -> Table:
    return llava_table(system, origin.layout, {**FORMS[origin.layout], **origin.form})


def _llava_target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, eos_id: int | None, _paths: Collection[str]
) -> Origin:
    made = llava_config.config_from(system, layout)
    same = origin is not None and origin.layout == layout
    if layout == "hf":
        made["image_token_index"] = _image_token(system, origin)
        if system.get("newline"):
            made["image_grid_pinpoints"] = _grids(system, origin)

    def system_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return llava_config.system_from(config, layout, "config")

    form = origin.form if origin is not None and same else FORMS[layout]
    target = Origin(layout, _same(origin, layout, made, system_of), form=form)
    return target if origin is None else target._replace(resample=origin.resample, fit=origin.fit)


def _image_token(system: Mapping[str, Any], origin: Origin | None) -> int:
    """The id that holds the place of pictures in Hugging Face's rows: the publisher's, or the last one."""
    config = {} if origin is None or origin.layout != "hf" else origin.config
    return config.get("image_token_index", config.get("image_token_id", system["llm"]["vocab"] - 1))


def _grids(system: Mapping[str, Any], origin: Origin | None) -> list[list[int]]:
    """The grids of tiles: the publisher's, or the released models', in tiles of this size."""
    told = None if origin is None else origin.config.get("image_grid_pinpoints")
    tile = system["img"]["image_size"]
    return told or [[tile * across, tile * down] for across, down in GRIDS]


def _with_image_token(
    flat: Flat, system: Mapping[str, Any], layout: str, origin: Origin | None
) -> tuple[Flat, Mapping[str, Any]]:
    """One more token, which stands for pictures in Hugging Face's rows.

    Its rows are the means of the others', so that its logit is their mean: it is never the likeliest.
    """
    if layout != "hf" or (origin is not None and origin.layout == "hf"):
        return flat, system
    llm, grown = system["llm"], dict(flat)
    rows = llm["vocab"] + 1
    table = "params/llm/embed/embedding"
    grown[table] = vocabulary.grow_rows(np.asarray(flat[table]), rows)
    if (head := "params/llm/head/kernel") in flat:
        grown[head] = vocabulary.grow_rows(np.asarray(flat[head]).T, rows).T
    return grown, {**system, "llm": {**llm, "vocab": rows}}


def _write_llava(folder: pathlib.Path, system: Mapping[str, Any], origin: Origin) -> None:
    if origin.layout == "hf":
        grids = origin.config.get("image_grid_pinpoints") if system.get("newline") else None
        preprocessors.write_llava(folder, system, origin.fit or "crop", grids)


LLAVA = Family(LAYOUTS, _recognise_llava, _llava_table, _llava_target, _with_image_token, _write_llava)
