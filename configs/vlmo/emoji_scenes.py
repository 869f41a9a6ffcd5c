r"""VLMo on the built-in scenes: images, texts, pairs, for half an hour or less on two CPU cores.

    mmjax train --config configs/vlmo/emoji_scenes.py --workdir runs/vlmo_scenes

With random codes, the default, images are still masked and predicted, but what is predicted means little. Better give
the tokenizer the weights of a run of configs/vqkd/emoji_scenes.py, in this file:

    c.init = {"path": "runs/vqkd_scenes", "skip": ("teacher.*",), "rename": {"(.*)": r"tokenizer/\1"}}

No run of this config has been measured. `:smoke` is a form of nine steps.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.systems import vlmo


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of nine steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    recipe = sibling(__file__, "_recipe")
    source = "emoji_scenes:train?length=20000"
    c = ConfigDict()
    c.title = "VLMo learns scenes of emoji"
    c.seed = 0
    c.init = "random"
    c.system = ConfigDict({
        "name": "vlmo", "tasks": ("mim", "mlm", "itc", "itm"), "width": 128, "depth": 5, "heads": 4, "top": 1,
        "layer_scale": 0.1, "codes": 256,
        "tokenizer": {
            "img": {"image_size": 64, "patch": 8, "width": 128, "depth": 3, "heads": 4},
            "decoder": {"width": 128, "depth": 1, "heads": 4}, "codes": 256, "code_dim": 16, "target": 128,
            "kmeans": False,
        },
        "img": {"image_size": 64, "patch": 8},
        "txt": {"vocab": 2000, "length": 32, "mask_id": 4},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": source, "vocab_size": 2000})
    c.data = ConfigDict({"train": source, "batch_size": 64, "image": {"preset": "sprite"}, "text": {}, "workers": 1})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    adam = {"b2": 0.98, "weight_decay": 0.01, "warmup": 50, "schedule": "linear", "lr": 1e-3, "clip": 3.0}
    c.stages = ConfigDict({
        "images": {**adam, "steps": 300, "train": vlmo.STAGES["images"], "data": {"task": recipe.masked("image")}},
        "text": {**adam, "steps": 500, "train": vlmo.STAGES["text"], "data": {"task": recipe.masked("text")}},
        "pairs": {**adam, "steps": 800, "train": vlmo.STAGES["pairs"], "data": {"task": recipe.masked("pair")}},
    })  # fmt: skip
    test = "emoji_scenes:test?length=500"
    c.evals = ConfigDict({"scenes": {"kind": "retrieval", "data": test}})
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant:
        recipe.smoke(c)
    return c
