"""CLIP on the built-in emoji, in minutes on two CPU cores: a smaller model for fewer steps than `emoji.py`.

mmjax train --config configs/clip/demo.py --workdir runs/demo
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    c = sibling(__file__, "emoji").get_config(variant)
    if variant != "smoke":
        c.system.img.width, c.system.img.heads = 192, 3
        c.system.txt.depth = 1
        c.data.text.forms = ConfigDict({"label": 0.6, "label_tags": 0.4})
        c.stages.train.steps = 600
        c.every = ConfigDict({"log": 10, "save": 50, "evaluate": 100})
    return c
