r"""BEiT-3 on the built-in scenes: masked data modelling, then one model that writes captions and answers questions.

    mmjax train --config configs/beit3/emoji_scenes.py --workdir runs/beit3_scenes

Pre-training is masked data modelling alone, of images, texts and pairs; fine-tuning reads a caption and a question of
each scene. Judged on the test split, whose compositions training never shows: `captions` of 300 scenes, `answers` to
the first three questions of 300. The report has the baselines beside: one caption for all scenes, and the commonest
answer to each kind of question.

With random codes, the default, images are still masked and predicted: a random projection's codes, as BEST-RQ predicts
of speech. `:vqkd` predicts those of a run of configs/vqkd/emoji_scenes.py in runs/vqkd_scenes (elsewhere:
--config.init[0].path=DIR), `:pixels` the pixels of the patches.

`:finetune` leaves pre-training out; `:smoke` and each of these with `_smoke` are forms of a few steps.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError
from mmjax.data.scenes.questions import possible_answers
from mmjax.data.sources import open_source

SIZE = 80


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Args:
      variant: "" predicts random codes, "vqkd" those of a run of configs/vqkd, "pixels" no codes; "finetune" has no
        pre-training; "smoke", and each with "_smoke", are forms of a few steps.

    Raises:
      UserError: another variant.
    """
    form, small = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in ("", "vqkd", "pixels", "finetune"):
        raise UserError(
            f"variant {variant!r} does not exist; there are smoke, vqkd, pixels, finetune (all with _smoke), or none"
        )
    recipe = sibling(__file__, "_recipe")
    answers = possible_answers(open_source("emoji_scenes:train").world)
    c = recipe.paper("base")
    c.title = "BEiT-3 learns scenes of emoji"
    with c.ignore_type():
        c.init = "random"
        if form == "vqkd":
            c.init = ({"path": "runs/vqkd_scenes", "skip": ("teacher.*",), "rename": {"(.*)": r"tokenizer/\1"}},)
    tower, image = {"width": 128, "heads": 4}, {"image_size": SIZE, "patch": 16}
    c.system = ConfigDict({
        "name": "beit3", "tasks": ("mdm", "caption", "vqa"), **tower, "depth": 4, "mlp_dim": 256, "init_std": 0.07,
        "norm_final": True, "img": image, "codes": 256, "smoothing": 0.0, "classes": len(answers),
        "begin_id": 1, "end_ids": [2],
        "tokenizer": {"img": {**image, **tower, "depth": 1}, "decoder": {**tower, "depth": 1}, "codes": 256,
                      "code_dim": 16, "target": 128, "kmeans": False},
        "txt": {"vocab": 521, "length": 40, "mask_id": 520},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"train_on": "emoji_scenes:train?parts=captions,questions&length=2000", "vocab_size": 520,
                              "normalization": "nmt_nfkc_cf"})  # fmt: skip
    source = f"emoji_scenes:train?size={SIZE}&parts=image,captions,questions"
    # No mirror images: captions say left and right.
    c.data = ConfigDict({"train": source, "batch_size": 64, "text": {}, "text_length": 24, "workers": 1,
                         "image": {"preset": "none"}, "task": {"kind": "masked"}})  # fmt: skip
    c.mesh.fsdp = 1
    stage = {"lr": 1.5e-3, "warmup": 50, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.05, "clip": 1.0}
    tune = {"task": {"kind": "vqa", "classes": answers, "captions": True}}
    # What is meant by a name is learned soonest where nothing else could be.
    c.stages = ConfigDict({
        "pretrain": {**stage, "steps": 600, "schedule": "constant", "tasks": ("mdm",),
                     "train": recipe.beit3_sizes.STAGES["pretrain"], "data": {"train": f"{source}&kinds=1"}},
        "finetune": {**stage, "steps": 1500, "tasks": ("caption", "vqa"),
                     "train": recipe.beit3_sizes.STAGES["pretrain"], "data": tune},
    })  # fmt: skip
    test = f"emoji_scenes:test?size={SIZE}&parts=image,captions,questions&length=300"
    c.evals = ConfigDict({
        "captions": {"kind": "caption", "data": test,
                     "settings": {"beams": 3, "max_length": 24, "min_length": 10, "length_penalty": 0.6}},
        "answers": {"kind": "vqa", "mode": "classify", "candidates": answers, "data": test, "per_example": 3},
    })  # fmt: skip
    c.every = ConfigDict({"log": 20, "save": 200, "evaluate": 0})
    c.report = ("captions", "answers")
    if form == "pixels":
        c.system.target = "pixels"
    if form == "finetune":
        del c.stages["pretrain"]
    if small:
        _shrink(c)
    return c


def _shrink(c: ConfigDict) -> None:
    """A tiny model, a few steps."""
    c.data.batch_size, c.data.workers = 16, 0
    c.system.depth, c.system.width, c.system.heads = 1, 32, 2
    c.tokenizer.train_on = "emoji_scenes:train?parts=captions,questions&length=600"
    for stage in c.stages.values():
        stage.steps, stage.warmup = 2, 1
    for evaluator in c.evals.values():
        evaluator.data = evaluator.data.replace("length=300", "length=8")
    c.evals.captions.settings = {"beams": 1, "max_length": 8}
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
