r"""VLMo on the built-in scenes, in its three stages: images, texts, pairs; then retrieval, dual and fused.

    mmjax train --config configs/vlmo/emoji_scenes.py --workdir runs/vlmo_scenes

Judged on 200 scenes of the test split, whose compositions training never shows, and their 1,000 captions (`scenes`): of
each the 32 nearest by cosine (the model as dual encoder), put in order by the matching head (the same weights as fusion
encoder); `scenes/cosine/...` is the order by cosine alone.

With random codes, the default, images are still masked and predicted: a random projection's codes, as BEST-RQ predicts
of speech. To predict those of a VQ-KD give the tokenizer the weights of a run of configs/vqkd/emoji_scenes.py (at the
same `size`), in this file:

    c.init = ({"path": "runs/vqkd_scenes", "skip": ("teacher.*",), "rename": {"(.*)": r"tokenizer/\1"}},)

`:pairs` leaves the first two stages out; `:smoke` and `:pairs_smoke` are forms of a few steps.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.systems import vlmo

SIZE = 80


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Args:
      variant: "" has all stages, "pairs" begins with pairs; "smoke" and "pairs_smoke" are forms of a few steps.

    Raises:
      UserError: another variant.
    """
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in ("", "pairs"):
        raise UserError(f"variant {variant!r} does not exist; there are pairs, pairs_smoke, smoke, or none")
    recipe = sibling(__file__, "_recipe")
    tower, image = {"width": 128, "heads": 4}, {"image_size": SIZE, "patch": 16}
    c = ConfigDict()
    c.title = "VLMo learns scenes of emoji"
    c.seed = 0
    c.init = "random"
    c.system = ConfigDict({
        "name": "vlmo", "tasks": ("mim", "mlm", "itc", "itm"), **tower, "depth": 4, "top": 1, "mlp_dim": 256,
        "init_std": 0.07, "mask_rate": 0.5, "mlm_weight": 1.0, "img": image,
        "codes": 256, "tokenizer": {"img": {**image, **tower, "depth": 1}, "decoder": {**tower, "depth": 1},
                                    "codes": 256, "code_dim": 16, "target": 128, "kmeans": False},
        "txt": {"vocab": 640, "length": 40, "mask_id": 4},
    })  # fmt: skip
    c.tokenizer = ConfigDict(
        {"kind": "wordpiece", "train_on": "emoji_scenes:train?length=2000&parts=captions", "vocab_size": 640}
    )
    source = f"emoji_scenes:train?size={SIZE}&parts=image,captions"
    # No mirror images: captions say left and right.
    c.data = ConfigDict({"train": source, "batch_size": 64, "image": {"preset": "none"}, "text": {}, "text_length": 24,
                         "workers": 1})  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    stage = {"lr": 1.5e-3, "b2": 0.98, "weight_decay": 0.01, "warmup": 50, "clip": 1.0}
    # What is meant by a name is learned soonest where nothing else could be; masked words beside a picture teach it.
    c.stages = ConfigDict({
        "images": {**stage, "steps": 200, "train": vlmo.STAGES["images"],
                   "data": {"task": recipe.masked("image"), "train": source}},
        "text": {**stage, "steps": 300, "train": vlmo.STAGES["text"],
                 "data": {"task": recipe.masked("text"), "train": source}},
        "names": {**stage, "steps": 800, "schedule": "constant", "train": vlmo.STAGES["pairs"], "tasks": ("mlm",),
                  "data": {"task": recipe.masked("pair"), "train": f"{source}&kinds=1"}},
        "pairs": {**stage, "steps": 900, "train": vlmo.STAGES["pairs"], "data": {"task": recipe.masked("pair")}},
    })  # fmt: skip
    if form == "pairs":
        del c.stages["images"], c.stages["text"]
    test = f"emoji_scenes:test?size={SIZE}&length=200"
    c.evals = ConfigDict({"scenes": {"kind": "rerank", "data": test, "nearest": 32}})
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 0})
    c.keep = 2
    c.writers = ("jsonl", "csv")
    c.report = ("scenes",)
    if smoke:
        _shrink(c)
    return c


def _shrink(c: ConfigDict) -> None:
    """A tiny model, a few steps."""
    c.data.batch_size, c.data.workers = 16, 0
    c.system.depth, c.system.width, c.system.heads = 2, 32, 2
    c.tokenizer.train_on = "emoji_scenes:train?length=400&parts=captions"
    for stage in c.stages.values():
        stage.steps, stage.warmup = 2, 1
    c.evals.scenes.data, c.evals.scenes.nearest = f"emoji_scenes:test?size={SIZE}&length=16", 4
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
