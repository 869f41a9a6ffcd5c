"""CLIP on the built-in emoji, in minutes on two CPU cores.

mmjax train --config configs/clip/demo.py --workdir runs/demo
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    c = ConfigDict()
    c.title = "CLIP learns emoji"
    c.seed = 0
    c.init = ""
    c.system = ConfigDict(
        {
            "name": "clip",
            "embed_dim": 128,
            "img": {"kind": "resnet", "image_size": 32, "layers": (1, 1, 1, 1), "width": 32, "heads": 16},
            "txt": {"vocab": 2000, "length": 16, "width": 128, "depth": 2, "heads": 2},
        }
    )
    c.tokenizer = ConfigDict({"train_on": "emoji:train", "vocab_size": 2000, "normalization": "nmt_nfkc_cf"})
    c.data = ConfigDict(
        {
            "train": "emoji:train",
            "batch_size": 256,
            "image": {"preset": "sprite"},
            "text": {"forms": {"label": 0.7, "label_tags": 0.3}},
            "workers": 1,
        }
    )
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = ConfigDict(
        {
            "train": {
                "steps": 600,
                "lr": 2e-3,
                "warmup": 50,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.1,
                "clip": 1.0,
            }
        }
    )
    seen = {"kind": "retrieval", "data": "emoji:train?style=fluent", "gallery": "emoji:all?style=noto,twemoji,fluent",
            "pixel_match": "emoji:all"}  # fmt: skip
    heldout = {"kind": "retrieval", "data": "emoji:test?style=fluent", "gallery": "emoji:test?style=noto,twemoji,fluent",
               "pixel_match": "emoji:test"}  # fmt: skip
    c.evals = ConfigDict({"emoji_fluent_seen": seen, "emoji_fluent_heldout": heldout})
    c.every = ConfigDict({"log": 10, "save": 50, "evaluate": 100})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("emoji_fluent_seen", "emoji_fluent_heldout")
    if variant == "smoke":
        c.data.batch_size = 16
        c.stages.train.steps, c.stages.train.warmup = 4, 1
        c.system.img.width, c.system.img.heads = 4, 2
        c.system.txt.width, c.system.txt.depth, c.system.embed_dim = 32, 1, 16
        c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    return c
