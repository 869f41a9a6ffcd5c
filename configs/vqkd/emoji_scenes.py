r"""VQ-KD on the built-in scenes, of a CLIP trained on them: minutes on two CPU cores.

    mmjax train --config configs/clip/emoji_scenes.py --workdir runs/clip_scenes
    mmjax train --config configs/vqkd/emoji_scenes.py --workdir runs/vqkd_scenes

The teacher is random by default, and the codes keep what random features see. To distil that CLIP, put in this file,
with _recipe.py's RENAME:

    c.init = {"path": "runs/clip_scenes", "load": ("img/.*", "img_proj/.*"), "rename": recipe.RENAME}

No run of this config has been measured. `:smoke` is a form of three steps.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.systems import vqkd


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of three steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    recipe = sibling(__file__, "_recipe")
    tower = {"image_size": 80, "patch": 16, "width": 128, "heads": 4}
    # `img` and `decoder` are the tokenizer of configs/beit3 and configs/vlmo, `teacher` is the tower of configs/clip.
    system = {"name": "vqkd", "img": {**tower, "depth": 1}, "decoder": {"width": 128, "depth": 1, "heads": 4},
              "teacher": {**tower, "depth": 3}, "codes": 256, "code_dim": 16, "target": 128,
              "revive": 0.01}  # fmt: skip
    c = recipe.config("VQ-KD learns scenes of emoji", system, {"preset": "none"})
    c.init = "random"
    c.data.train = "emoji_scenes:train?size=80&parts=image,captions"
    c.stages.train = ConfigDict(
        {"steps": 1000, "warmup": 50, "lr": 1e-3, "b2": 0.99, "weight_decay": 1e-4, "train": vqkd.STAGES["train"]}
    )
    if variant:
        recipe.smoke(c)
    return c
