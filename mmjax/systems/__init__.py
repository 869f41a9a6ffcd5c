"""Systems by name: one file each, composed of the parts in nn, encoders and losses."""

from typing import Any

import flax.linen as nn

from mmjax.core.errors import UserError
from mmjax.systems import albef_sizes, base, beit3_sizes, blip_sizes, clip, coca, language, llava, towers, vlmo, vqkd

BUILDERS = {
    "albef": albef_sizes.build,
    "beit3": beit3_sizes.build,
    "bert": towers.build_bert,
    "blip": blip_sizes.build,
    "clip": clip.build,
    "coca": coca.build,
    "language": language.build,
    "llava": llava.build,
    "vit": towers.build_vit,
    "vlmo": vlmo.build,
    "vqkd": vqkd.build,
}
SIZES = {
    "albef": albef_sizes.SIZES,
    "beit3": beit3_sizes.SIZES,
    "blip": blip_sizes.SIZES,
    "clip": clip.SIZES,
    "coca": coca.SIZES,
    "language": language.LANGUAGE_SIZES,
    "llava": llava.SIZES,
    "vlmo": vlmo.SIZES,
    "vqkd": vqkd.SIZES,
}
DECODERS = ("language", "llava")  # they read conversations, with a decoder `llm` whose positions do not end
TOWERS = ("bert", "vit")  # what others begin with; they have no losses
WITHOUT_IMAGES = ("bert", "language")  # they read texts alone
WITHOUT_TEXT = ("vit", "vqkd")  # they read images alone

MIXED = ("beit3",)  # they learn of images and texts alone beside pairs, in one step


def build(config: Any) -> nn.Module:
    """The system that a mapping (or an ml_collections ConfigDict) describes; its keys are listed in systems/base.py.

    Raises:
      UserError: no such system, unknown or missing keys, or values that do not exist.

    Example:
      >>> build({"name": "clip", "size": "vit_b32"}).embed_dim
      512
    """
    config = base.plain(config)
    name = config.get("name")
    if name not in BUILDERS:
        raise UserError(f"system name {name!r} does not exist; there are {', '.join(map(repr, BUILDERS))}")
    return BUILDERS[name](config)
