"""The families of published checkpoints: system name -> what mmjax knows of them. A new system is one line here."""

from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import albef, beit3, blip_family, clip_family, coca, language_families, towers, vlmo, vqkd
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.layout import Table

# CLIP's stands last: it says of what nobody knows why it is no checkpoint.
FAMILIES: dict[str, Family] = {
    "albef": albef.FAMILY,
    "blip": blip_family.FAMILY,
    "beit3": beit3.FAMILY,
    "vlmo": vlmo.FAMILY,
    "vqkd": vqkd.FAMILY,
    "coca": coca.FAMILY,
    "language": language_families.LANGUAGE,
    "llava": language_families.LLAVA,
    "vit": towers.VIT,
    "bert": towers.BERT,
    "clip": clip_family.FAMILY,
}


def recognise(published: Published) -> tuple[dict[str, Any], Origin]:
    """(system mapping, origin) of a checkpoint of any family.

    Raises:
      UserError: it is of no family, or not supported.
    """
    for family in FAMILIES.values():
        if (found := family.recognise(published)) is not None:
            return found
    raise UserError(f"{published.where}: not a configuration that mmjax knows")


def family_of(system: Mapping[str, Any]) -> Family:
    """The family of a system.

    Raises:
      UserError: its checkpoints have no published layout.
    """
    name = system.get("name")
    if name not in FAMILIES:
        raise UserError(f"the system {name!r} has no published layout; those that have: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def table_of(system: Mapping[str, Any], origin: Origin) -> Table:
    """The table of a checkpoint's layout."""
    return family_of(system).table(system, origin)


def check_layout(system: Mapping[str, Any], layout: str) -> None:
    """Raises UserError if the system has no such layout."""
    known = ", ".join(family_of(system).layouts)
    if not known:
        raise UserError(f"{system['name']!r} is a tower alone, which is read and not written but as mmjax keeps it")
    if layout not in family_of(system).layouts:
        raise UserError(f"unknown layout {layout!r} of {system['name']}; there are {known}")


LAYOUTS = tuple(dict.fromkeys(layout for family in FAMILIES.values() for layout in family.layouts))
"""Of all families."""
