"""The published checkpoints of decoders alone and of LLaVA, as families."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmjax.weights import gguf_words, llama_config, llava_config
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.gguf_file import GGUFTensors
from mmjax.weights.gguf_llama import gguf_table
from mmjax.weights.layout import Table
from mmjax.weights.llama import llama_table
from mmjax.weights.llava import FORMS, LAYOUTS, form_of, llava_table

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
    return system, Origin(layout, config, form=form_of(published.tensors.keys(), layout))


def _llava_table(system: Mapping[str, Any], origin: Origin) -> Table:
    return llava_table(system, origin.layout, {**FORMS[origin.layout], **origin.form})


def _llava_target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, eos_id: int | None, _paths: Collection[str]
) -> Origin:
    made = llava_config.config_from(system, layout)

    def system_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return llava_config.system_from(config, layout, "config")

    form = origin.form if origin is not None and origin.layout == layout else FORMS[layout]
    return Origin(layout, _same(origin, layout, made, system_of), form=form)


LLAVA = Family(LAYOUTS, _recognise_llava, _llava_table, _llava_target)
