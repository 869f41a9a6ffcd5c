r"""BEiT-3 on the built-in scenes: masked data modelling alone, for twenty minutes or less on two CPU cores.

    mmjax train --config configs/beit3/emoji_scenes.py --workdir runs/beit3_scenes

With random codes, the default, images are still masked and predicted, but what is predicted means little. Better give
the tokenizer the weights of a run of configs/vqkd/emoji_scenes.py, in this file:

    c.init = {"path": "runs/vqkd_scenes", "skip": ("teacher.*",), "rename": {"(.*)": r"tokenizer/\1"}}

No run of this config has been measured. `:smoke` is a form of three steps.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of three steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    recipe = sibling(__file__, "_recipe")
    c = recipe.paper("base")
    c.title = "BEiT-3 learns scenes of emoji"
    c.init = "random"
    tower = {"width": 128, "heads": 4}
    image = {"image_size": 64, "patch": 8}
    c.system = ConfigDict({
        "name": "beit3", "tasks": ("mdm",), **tower, "depth": 4, "img": image, "codes": 256,
        "tokenizer": {"img": {**image, **tower, "depth": 3}, "decoder": {**tower, "depth": 1}, "codes": 256,
                      "code_dim": 16, "target": 128, "kmeans": False},
        "txt": {"vocab": 2001, "length": 32, "mask_id": 2000},
    })  # fmt: skip
    source = "emoji_scenes:train?length=20000"
    c.tokenizer = ConfigDict({"train_on": source, "vocab_size": 2000})
    c.data.train, c.data.batch_size, c.data.text_length, c.data.workers = source, 64, 32, 1
    c.data.image = ConfigDict({"preset": "sprite"})
    c.mesh.fsdp = 1
    c.stages.pretrain.steps, c.stages.pretrain.warmup = 1500, 100
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 0})
    if variant:
        recipe.smoke(c)
    return c
