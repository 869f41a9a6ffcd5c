"""CoCa on emoji_scenes, in minutes on two CPU cores: one model that finds captions and writes them.

    mmjax train --config configs/coca/emoji_scenes.py --workdir runs/coca_scenes

Judged on scenes whose compositions training never shows: each of 500 pictures among all their captions
(`scenes_retrieval`), and by the captions that it writes of 300 (`scenes_captions`). Measured, on one core (AMD EPYC, a
step 0.3 s): from image to text R@1 23.8 %, R@10 65.4 %, from text to image 8.6 and 38.3 %; CIDEr-D 0.28.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

SIZE = 64
# Other parts of a scene, as its depth, take longer to make than these.
SCENES = f"emoji_scenes:train?size={SIZE}&parts=image,captions"


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = ConfigDict()
    c.title = "CoCa describes emoji scenes"
    c.seed = 0
    c.init = ""
    blocks = {"width": 128, "heads": 4, "act": "gelu"}
    c.system = ConfigDict({
        "name": "coca",
        "embed_dim": 128,
        "project": False,
        "pool": "cascade",
        "queries": 16,
        "pool_width": 128,
        "pool_heads": 4,
        "begin_id": 1,
        "end_ids": [2],
        "scale_init": 20.0,
        "img": {"image_size": SIZE, "patch": 16, "patch_stride": 12, "depth": 3, "cls": False,
                "patch_bias": True, "norm_pre": False, "pool": "none", "norm_post": "all", **blocks},
        "txt": {"vocab": 500, "length": 40, "depth": 2, "mlp_dim": 256, **blocks},
        "dec": {"depth": 2},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"train_on": "emoji_scenes:train?parts=captions&length=2000", "vocab_size": 500,
                              "normalization": "nmt_nfkc_cf"})  # fmt: skip
    c.data = ConfigDict({"train": SCENES, "batch_size": 64, "text": {}, "workers": 1,
                         "image": {"preset": "none"}, "text_length": 24})  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # What is meant by a name is learned soonest where nothing else could be.
    stage = {"lr": 2e-3, "warmup": 50, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.05, "clip": 1.0}
    c.stages = ConfigDict({
        "names": {**stage, "steps": 700, "schedule": "constant",
                  "data": {"train": f"{SCENES}&kinds=1"}},
        "scenes": {**stage, "steps": 2000},
    })  # fmt: skip
    c.evals = ConfigDict({
        "scenes_retrieval": {"kind": "retrieval", "data": f"emoji_scenes:val?size={SIZE}&length=500"},
        "scenes_captions": {"kind": "caption", "data": f"emoji_scenes:val?size={SIZE}&length=300",
                            "settings": {"beams": 3, "max_length": 24, "min_length": 10}},
    })  # fmt: skip
    c.every = ConfigDict({"log": 20, "save": 250, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("scenes_retrieval", "scenes_captions")
    if variant == "smoke":
        small = {"width": 32, "heads": 2, "depth": 1}
        c.data.batch_size, c.data.workers = 16, 0
        for name in c.stages:
            c.stages[name].steps, c.stages[name].warmup = 2, 1
        c.system.embed_dim, c.system.pool_width, c.system.queries = 32, 32, 4
        c.system.img.update(small)
        c.system.txt.update(small)
        c.system.dec.depth = 1
        del c.evals.scenes_captions
        c.evals.scenes_retrieval.data, c.report = "emoji_scenes:val?length=16", ("scenes_retrieval",)
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
