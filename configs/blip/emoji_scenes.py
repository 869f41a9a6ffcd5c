"""BLIP on generated scenes: captions, retrieval and matching from one model, in minutes on two CPU cores.

    mmjax train --config configs/blip/emoji_scenes.py --workdir runs/blip_scenes

Contrast, matching and writing at once, a momentum teacher, a queue. Scenes of the test split hold combinations that the
train split does not.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError

_RECIPE = sibling(__file__, "_recipe")


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "BLIP on generated scenes"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict(
        {
            "name": "blip",
            "task": "pretrain",
            "embed_dim": 64,
            "queue": 2_048,
            "alpha_steps": 500,
            "smoothing": 0.05,
            **_RECIPE.SPECIAL,
            "img": {"image_size": 64, "patch": 8, "width": 128, "depth": 4, "heads": 4},
            "txt": {"vocab": 640, "length": 40, "width": 128, "depth": 2, "heads": 4},
        }
    )
    c.tokenizer = ConfigDict(
        {
            "kind": "wordpiece",
            "train_on": "emoji_scenes:train?length=4000&parts=captions",
            "vocab_size": 640,
            "added": _RECIPE.ADDED,
            "clean": "blip",
        }
    )
    c.data = ConfigDict({"train": "emoji_scenes:train", "batch_size": 64, "text_length": 32, "workers": 1, "text": {}})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    stage = {"steps": 4_500, "lr": 1e-3, "warmup": 200, "b2": 0.98, "weight_decay": 0.05, "clip": 1.0}
    c.stages = ConfigDict({"train": {**stage, "teacher": _RECIPE.TEACHER, "teacher_decay": 0.995}})
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 50, "save": 1_500, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ()
    if variant == "smoke":
        c.data.batch_size, c.data.workers = 8, 0
        c.system.queue = 32
        c.tokenizer.train_on = "emoji_scenes:train?length=100&parts=captions"
        for tower in ("img", "txt"):
            c.system[tower].width, c.system[tower].depth, c.system[tower].heads = 32, 1, 2
        c.stages.train.steps, c.stages.train.warmup = 4, 1
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
