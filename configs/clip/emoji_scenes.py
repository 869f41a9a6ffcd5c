"""CLIP on the built-in scenes: two towers, one dot product, for minutes on two CPU cores.

    mmjax train --config configs/clip/emoji_scenes.py --workdir runs/clip_scenes

A baseline for the systems that look at image and text together, and the teacher of configs/vqkd/emoji_scenes.py. Judged
on 500 scenes of the test split, whose compositions training never shows, and their 2,500 captions (`scenes`). No run of
this config has been measured. `:smoke` is a form of a few steps.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

SIZE = 80


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "CLIP learns scenes of emoji"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict({
        "name": "clip",
        "embed_dim": 128,
        "scale_init": 20.0,
        "img": {"kind": "vit", "image_size": SIZE, "patch": 16, "width": 128, "depth": 3, "heads": 4},
        "txt": {"vocab": 500, "length": 24, "width": 128, "depth": 2, "heads": 4},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"train_on": "emoji_scenes:train?parts=captions&length=2000", "vocab_size": 500,
                              "normalization": "nmt_nfkc_cf"})  # fmt: skip
    source = f"emoji_scenes:train?size={SIZE}&parts=image,captions"
    # No mirror images: captions say left and right.
    c.data = ConfigDict({"train": source, "batch_size": 128, "image": {"preset": "none"}, "text": {}, "workers": 1})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    stage = {"lr": 2e-3, "warmup": 50, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.1, "clip": 1.0}
    # What is meant by a name is learned soonest where nothing else could be.
    c.stages = ConfigDict({
        "names": {**stage, "steps": 700, "schedule": "constant", "data": {"train": f"{source}&kinds=1"}},
        "scenes": {**stage, "steps": 1300},
    })  # fmt: skip
    c.evals = ConfigDict({"scenes": {"kind": "retrieval", "data": f"emoji_scenes:test?size={SIZE}&length=500"}})
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("scenes",)
    if variant:
        c.data.batch_size, c.data.workers = 16, 0
        c.tokenizer.train_on = "emoji_scenes:train?parts=captions&length=600"
        for stage in c.stages.values():
            stage.steps, stage.warmup = 2, 1
        c.system.img.width, c.system.img.depth, c.system.txt.width, c.system.txt.depth = 32, 1, 32, 1
        c.evals.scenes.data = f"emoji_scenes:test?size={SIZE}&length=8"
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
