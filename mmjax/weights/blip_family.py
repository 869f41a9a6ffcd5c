"""BLIP's published checkpoints: the original ones, LAVIS's of the same layout, Hugging Face's."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import blip_config, preprocessors
from mmjax.weights.blip import TEACHER, blip_table
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Table

LAYOUTS = ("hf", "blip")


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    """Hugging Face's by the configuration, the original's by the tensors: its files come without one."""
    config, keys = published.config, set(published.tensors.keys())
    if config is not None and blip_config.is_hf(config):
        system = blip_config.from_hf(config, published.where)
        return system | preprocessors.pixels(published.folder, system), Origin("hf", config)
    if config is not None and "med_config" not in config:
        return None
    if config is None and not any(".crossattention." in key for key in keys):
        return None
    if blip_config.task_of(keys) is None:
        return None
    if any(key.endswith("embeddings.token_type_embeddings.weight") for key in keys):
        return None  # ALBEF
    system = blip_config.from_original(config, published.tensors, published.where)
    form = {"momentum": any(key.startswith("visual_encoder_m.") for key in keys)}
    return system, Origin("blip", config or blip_config.to_original(system), form=form)


def _table(system: Mapping[str, Any], origin: Origin) -> Table:
    return blip_table(system, origin.layout, origin.form)


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _end: int | None, paths: Collection[str]
) -> Origin:
    form = {"momentum": any(path.startswith(f"{TEACHER}/") for path in paths)}
    if layout == "hf" and (form["momentum"] or any(path.startswith("queue/") for path in paths)):
        raise UserError("the layout 'hf' cannot hold this system: it has no momentum copies and no queue")
    if origin is not None and origin.layout == layout:
        return Origin(layout, origin.config, form=form)
    config = blip_config.to_hf(system) if layout == "hf" else blip_config.to_original(system)
    return Origin(layout, config, form=form)


def _write(directory: pathlib.Path, system: Mapping[str, Any], origin: Origin) -> None:
    if origin.layout == "hf":
        preprocessors.write(directory, preprocessors.settings_of("BlipImageProcessor", system))


FAMILY = Family(LAYOUTS, _recognise, _table, _target, write=_write)
