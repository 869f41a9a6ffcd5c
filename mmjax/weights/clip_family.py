"""CLIP's and SigLIP's published checkpoints: Hugging Face's, OpenAI's, open_clip's."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import clip_config, files, preprocessors
from mmjax.weights.clip import LAYOUTS, clip_table
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Table
from mmjax.weights.siglip import is_siglip

OPEN_CLIP_CONFIG = "open_clip_config.json"


def _recognise(published: Published) -> tuple[dict[str, Any], Origin]:
    """The layout, with what of open_clip's only the tensors tell; OpenAI's archives hold no configuration."""
    config, where, tensors = published.config, published.where, published.tensors
    keys = set(tensors.keys())
    if config is None and {"visual.conv1.weight", "positional_embedding"} <= keys:
        config, where = clip_config.infer_openai({key: tensors.shape(key) for key in keys}), str(published.source)
    if config is None:
        raise UserError(
            f"{published.folder / 'config.json'} is missing, and the weights are not in OpenAI's layout, which needs "
            "none"
        )
    layout = clip_config.detect_layout(config, where)
    system = clip_config.system_from(config, layout, where)
    origin = Origin(layout, config, resample=resample(published, layout, config))
    if layout == "open_clip":
        one_value = "logit_scale" in keys and tensors.shape("logit_scale") == (1,)
        origin = origin._replace(custom_text=any(key.startswith("text.") for key in keys), one_value=one_value)
    return system | preprocessors.pixels(published.folder, system), origin


def resample(published: Published, layout: str, config: Mapping[str, Any]) -> str:
    """How pictures are resized: as the preprocessor or `preprocess_cfg` says; bicubic where nothing does."""
    if layout == "open_clip":  # which takes everything but this one as bicubic
        return "bilinear" if (config.get("preprocess_cfg") or {}).get("interpolation") == "bilinear" else "bicubic"
    return preprocessors.resample(published.folder)


def _table(system: Mapping[str, Any], origin: Origin) -> Table:
    return clip_table(system, origin.layout, custom_text=origin.custom_text, one_value=origin.one_value)


# ------------------------------------------------------------------------------------------------- export


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, eos_id: int | None, _paths: Collection[str]
) -> Origin:
    same = origin is not None and origin.layout == layout
    form: dict[str, Any] = {}
    if origin is not None and same and layout == "open_clip":  # what only its keys tell
        form = {"custom_text": origin.custom_text, "one_value": origin.one_value}
    if origin is not None:
        eos_id = _eos_id(origin, system, eos_id)
    config = clip_config.config_from(system, layout, eos_id=eos_id, **form)
    if origin and same and _same_model(origin.config, config, layout):
        config = origin.config
    return Origin(layout, config, resample=origin.resample if origin else "bicubic", **form)


def _eos_id(origin: Origin, system: Mapping[str, Any], eos_id: int | None) -> int | None:
    """The id that ends a text of an imported model: what its publisher says, or else what the caller does.

    Where both say "the largest id", and the vocabulary has grown since, it is the largest of the publisher's.
    """
    stored = clip_config.eos_id(origin.config, origin.layout)
    vocab = clip_config.system_from(origin.config, origin.layout, "config")["txt"]["vocab"]
    grown = system["txt"]["vocab"] > vocab
    return stored if stored is not None else vocab - 1 if eos_id is None and grown else eos_id


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any], layout: str) -> bool:
    """Whether two configurations of a layout describe the same computation."""
    return clip_config.system_from(one, layout, "config") == clip_config.system_from(other, layout, "config")


def _write(directory: pathlib.Path, system: Mapping[str, Any], origin: Origin) -> None:
    if origin.layout == "hf":
        kind, fit = ("SiglipImageProcessor", "square") if is_siglip(system) else ("CLIPImageProcessor", "crop")
        preprocessors.write(directory, preprocessors.settings_of(kind, system, origin.resample, fit))
    if origin.layout == "open_clip":  # the name and form that its `local-dir:` reads
        mean, std = system.get("mean", preprocessors.MEAN), system.get("std", preprocessors.STD)
        pixels: dict[str, Any] = {"mean": list(mean), "std": list(std)}
        pixels |= {"interpolation": origin.resample, "resize_mode": "squash" if is_siglip(system) else "shortest"}
        model = {**origin.config.get("model_cfg", origin.config)}
        preprocess = {**pixels, **(origin.config.get("preprocess_cfg") or {})}
        files.write_json(directory / OPEN_CLIP_CONFIG, {"model_cfg": model, "preprocess_cfg": preprocess})


FAMILY = Family(
    LAYOUTS,
    _recognise,
    _table,
    _target,
    write=_write,
    notes=lambda origin: clip_config.unused(origin.config, origin.layout),
)
