r"""VQ-KD on the built-in scenes, of a CLIP trained on them: minutes on two CPU cores.

    mmjax train --config configs/clip/emoji_scenes.py --workdir runs/clip_scenes
    mmjax train --config configs/vqkd/emoji_scenes.py:clip --workdir runs/vqkd_scenes

`:clip` distils that CLIP (elsewhere: --config.init[0].path=DIR); without it the teacher is random, and the codes keep
what random features see. No run of this config has been measured. `:smoke` and `:clip_smoke` are forms of three steps,
the latter of the smoke form of that CLIP.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.systems import vqkd


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Args:
      variant: "clip" begins with a CLIP as the teacher, "" with a random one; "smoke" and "clip_smoke" are forms of a
        few steps.

    Raises:
      UserError: another variant.
    """
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in ("", "clip"):
        raise UserError(f"variant {variant!r} does not exist; there are clip, clip_smoke, smoke, or none")
    recipe = sibling(__file__, "_recipe")
    tower = {"image_size": 80, "patch": 16, "width": 128, "heads": 4}
    # `img` and `decoder` are the tokenizer of configs/beit3 and configs/vlmo, `teacher` is the tower of configs/clip.
    system = {"name": "vqkd", "img": {**tower, "depth": 1}, "decoder": {"width": 128, "depth": 1, "heads": 4},
              "teacher": {**tower, "depth": 3}, "codes": 256, "code_dim": 16, "target": 128,
              "revive": 0.01}  # fmt: skip
    c = recipe.config("VQ-KD learns scenes of emoji", system, {"preset": "none"})
    with c.ignore_type():
        c.init = "random"
        if form:
            c.init = ({"path": "runs/clip_scenes", "load": ("img/.*", "img_proj/.*"), "rename": recipe.RENAME},)
    c.data.train = "emoji_scenes:train?size=80&parts=image,captions"
    c.stages.train = ConfigDict(
        {"steps": 1000, "warmup": 50, "lr": 1e-3, "b2": 0.99, "weight_decay": 1e-4, "train": vqkd.STAGES["train"]}
    )
    if smoke and form:  # the sizes of configs/beit3 and configs/vlmo, and of the smoke form of configs/clip
        c.system.teacher.width, c.system.teacher.depth = 32, 1
        c.data.batch_size, c.data.workers, c.stages.train.steps, c.stages.train.warmup = 16, 0, 3, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    elif smoke:
        recipe.smoke(c)
    return c
