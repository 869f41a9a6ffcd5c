"""LLaVA-1.5 on generated scenes, all of it trained here: see, then talk, in minutes on two CPU cores.

    mmjax train --config configs/llava/v1_5_emoji_scenes.py --workdir runs/llava_scenes
    mmjax chat --checkpoint runs/llava_scenes

Three stages make what LLaVA takes ready-made: `language`, a small decoder on conversations without their pictures; and
`names` and `see`, a vision tower that learns to be written and asked about, scenes of one kind of thing first. Then the
paper's two: `align`, the projector alone, on captions; `instruct`, projector and decoder, on conversations and on
questions that ask for a short answer, the tower frozen. Judged by the accuracy of its short answers about scenes whose
combinations of things training never shows (`test_vqa`). Not trained to the end yet.
"""

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

SIZE = 64
SHORT = "Answer in a word."
SCENES = f"emoji_scenes:train?size={SIZE}"


def get_config(variant: str = "") -> ConfigDict:
    """The config.

    Args:
      variant: "" trains from nothing. "see" ends before the paper's two stages, and "talk" is these two, with a new
        projector before tower and decoder of the model that `init[0].path` names. "smoke", "see_smoke" and "talk_smoke"
        are forms of a few steps.

    Raises:
      UserError: another variant.
    """
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in ("", "see", "talk"):
        raise UserError(f"variant {variant!r} does not exist; there are see, talk, with _smoke, smoke, or none")
    c = ConfigDict()
    c.title = "LLaVA on generated scenes"
    c.seed = 0
    c.init = ""
    # A patch of 16 pixels sees a small sprite whole; they overlap by a quarter. Every block of the tower is read.
    img = {"image_size": SIZE, "patch": 16, "patch_stride": 12, "width": 128, "depth": 3, "heads": 4, "act": "gelu"}
    c.system = ConfigDict({
        "name": "llava",
        "layers": 2,
        "newline": False,
        "img": {**img, "patch_bias": True, "cls": False, "pool": "none", "norm_pre": False, "norm_post": "none",
                "taps": (-1,)},
        "llm": {"vocab": 800, "width": 128, "depth": 4, "heads": 4, "mlp_dim": 256, "init_std": 0.07},
    })  # fmt: skip
    c.tokenizer = ConfigDict({
        "train_on": "emoji_scenes:train?length=1500&parts=captions,conversation,questions",
        "vocab_size": 800,
        "model_type": "bpe",
        "symbols": ("[INST]", "[/INST]"),
    })  # fmt: skip
    # No mirror images: people say left and right. A row holds eight or nine questions about its picture.
    talk = {"kind": "chat", "template": "mistral_instruct", "short": SHORT, "grids": ()}
    c.data = ConfigDict({
        "train": {f"{SCENES}&parts=image,questions": 0.75, f"{SCENES}&parts=image,conversation": 0.25},
        "batch_size": 32,
        "image": {"preset": "none"},
        "text": {},
        "text_length": 192,
        "task": talk,
        "workers": 1,
    })  # fmt: skip
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.stages = _stages(talk)
    ask = {"kind": "vqa", "template": f"{{}}\n{SHORT}", "settings": {"max_new": 8}}
    c.evals = ConfigDict({
        "test_vqa": {**ask, "data": f"emoji_scenes:test?size={SIZE}&length=250&parts=image,questions"},
    })  # fmt: skip
    c.every = ConfigDict({"log": 25, "save": 500, "evaluate": 0})
    c.keep, c.writers, c.report = 2, ("jsonl", "csv"), ("test_vqa",)
    if smoke:
        _shrink(c)
    for name in {"see": ("align", "instruct"), "talk": ("language", "names", "see")}.get(form, ()):
        if name in c.stages:
            del c.stages[name]
    if form == "talk":
        with c.ignore_type():
            c.init = [ConfigDict({"path": "", "load": ("img/.*", "llm/.*")})]
    return c


def _stages(talk: dict) -> ConfigDict:
    """What is made here, and the paper's two stages."""
    stage = {"lr": 1.5e-3, "b2": 0.98, "weight_decay": 0.05, "clip": 1.0, "warmup": 50}
    texts = {"train": {"emoji_scenes:train?parts=questions": 0.5, "emoji_scenes:train?parts=conversation": 0.5},
             "task": {**talk, "images": 0}}  # fmt: skip
    captions = {"task": {"kind": "chat", "template": "plain", "of": "caption"}, "text_length": 56, "batch_size": 64}
    easy = {**captions, "train": f"{SCENES}&parts=image,captions&kinds=1"}
    scenes = {**captions, "train": f"{SCENES}&parts=image,captions"}
    return ConfigDict({
        "language": {**stage, "steps": 80, "train": ("llm/.*",), "data": texts},
        "names": {**stage, "steps": 800, "schedule": "constant", "data": easy},
        "see": {**stage, "steps": 700, "end_lr": 5e-4},
        "align": {**stage, "steps": 50, "train": ("projector/.*",), "lr": 5e-4, "warmup": 10, "data": scenes},
        "instruct": {**stage, "steps": 600, "train": ("projector/.*", "llm/.*"), "lr": 1e-3},
    })  # fmt: skip


def _shrink(c: ConfigDict) -> None:
    """A model for seconds on a CPU, a few steps."""
    c.data.batch_size, c.data.workers = 8, 0
    c.tokenizer.train_on = "emoji_scenes:train?length=60&parts=captions,conversation,questions"
    c.tokenizer.vocab_size = c.system.llm.vocab = 400
    for part in ("img", "llm"):
        c.system[part].width, c.system[part].depth, c.system[part].heads = 16, 1, 2
    c.system.llm.mlp_dim = 32
    del c.stages.names
    for name in c.stages:
        c.stages[name].steps, c.stages[name].warmup = 2, 1
        if "batch_size" in c.stages[name].get("data", {}):
            c.stages[name].data.batch_size = c.data.batch_size
    c.evals.test_vqa.data = f"emoji_scenes:test?size={SIZE}&length=4&parts=image,questions"
    c.evals.test_vqa.settings = {"max_new": 2}
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    c.keep = 4
