"""How LLaVA, LLaVA-1.5 and LLaVA-NeXT were trained, shared by the configs beside this file. Not a config itself.

Two stages in one run: `align` trains the projector alone on captions, `instruct` projector and language model (NeXT:
the vision tower, too) on conversations. AdamW without weight decay, a cosine after 3 % of warm-up, one epoch (v1: three
of the second stage). A row has 2,048 tokens, pictures included, and is cut at its end.

Both stages need data of their own, and the run two checkpoints and a tokenizer:

    --config.stages.align.data.train=llava:captions.json --config.stages.instruct.data.train=llava:talk.json
    --config.init[0].path=CLIP --config.init[1].path=LANGUAGE_MODEL
    --config.tokenizer.spec=sentencepiece:tokenizer.model

What fits, by `mmjax plan` as an estimate without a compiler, which has to fit with a margin of 1.2: GB a device of
`align` and of `instruct`. `chunks` computes a batch in parts (--config.stages.align.chunks=2); the gradient is that of
the whole batch.

    config            devices     usable   align  instruct  chunks of align, instruct
    next_mistral_7b   h100:8        64.4    51.0      38.5  1, 4
    next_yi_34b:lora  h100:8        64.4       –      50.1  2, 8
    v1_5_13b          h100:8        64.4    39.6      50.0  2, 2
    next_yi_34b       v5p:4x4x4    100.0    16.1      28.8  1, 1
    next_mistral_7b   v5e:8x8       16.8     6.6      11.7  1, 1
    v1_5_13b          v5e:8x8       16.8     9.3       7.6  1, 1

Without a margin to spare: `align` of next_yi_34b:lora in 2 parts on h100:8 (74.8), `instruct` of next_yi_34b on
v5e:8x16 (16.1), of v1_5_13b in one part on h100:8 (59.7). The sizes of 7B that are not named have not been planned.

Where the papers group rows by length and kind, batches here have one shape, and rows without pictures black ones that
nobody reads.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from mmjax.core.errors import UserError

MEAN_COLOUR = (122, 116, 104)
"""CLIP's mean, of which pictures get a border in LLaVA-1.5's second stage."""
IMG = {"image_size": 32, "patch": 16, "width": 16, "depth": 2, "heads": 2}
LLM = {"vocab": 400, "width": 16, "depth": 1, "heads": 2, "kv_heads": 2, "mlp_dim": 32}
CHATML = ("<|im_start|>", "<|im_end|>")  # marks of a template, which a tokenizer has to know
SCENES = "emoji_scenes:train?size=32&length=1000&parts=image"


def paper(
    size: str,
    variant: str,
    *,
    template: str,
    align: tuple[int, int, float],
    instruct: tuple[int, int, float],
    train: tuple[str, ...] = ("projector/.*", "llm/.*"),
    lr_scale: tuple[tuple[str, float], ...] = (),
    image: dict[str, Any] | None = None,
    grids: tuple[tuple[int, int], ...] = (),
    text_length: int = 2_048,
    lora: float = 0.0,
) -> ConfigDict:
    """The config of a published form.

    Args:
      size: a key of SIZES in mmjax/systems/llava.py.
      variant: "" as published, or "smoke": a tiny model of the same form, a few steps on generated scenes, CPU. With
        `lora` also "lora" and "lora_smoke".
      template: of the second stage; captions are written plainly.
      align, instruct: examples over all epochs, batch size and rate of the stages.
      train, lr_scale: of `instruct`.
      image: of `instruct` and of evaluation, fields of mmjax/data/image.Preprocess; `align` cuts squares.
      grids: tiles of `instruct`, in pixels (width, height).
      text_length: tokens of a row of `instruct`.
      lora: rate of adapters of the language model, which then train in its place, for the variant "lora".

    Raises:
      UserError: another variant.
    """
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), variant.endswith("smoke")
    if form not in (("", "lora") if lora else ("",)):
        more = ", 'lora' and 'lora_smoke'" if lora else ""
        raise UserError(f"variant {variant!r} does not exist; there are '' (as published), 'smoke'{more}")
    c = ConfigDict()
    c.title = f"LLaVA {size}"
    c.seed = 0
    c.init = [ConfigDict({"path": "", "load": ("img/.*",)}), ConfigDict({"path": "", "load": ("llm/.*",)})]
    c.system = ConfigDict({"name": "llava", "size": size, "scan": True, "remat": "full", "loss_chunk": 256})
    c.tokenizer = ConfigDict({"spec": ""})
    talk = {"kind": "chat", "template": template, "grids": grids}
    image = image or {"mode": "crop"}
    c.data = ConfigDict({"train": "", "batch_size": instruct[1], "image": {"preset": "eval", **image},
                         "eval_image": image, "text": {}, "text_length": text_length, "task": talk, "workers": 16,
                         "read_ahead": 2})  # fmt: skip
    c.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    captions = {"train": "", "batch_size": align[1], "image": {"preset": "eval", "mode": "crop"},
                "text_length": 2_048, "task": {"kind": "chat", "template": "plain"}}  # fmt: skip
    c.stages = ConfigDict({
        "align": {**_steps(*align), "train": ("projector/.*",), "data": captions},
        "instruct": {**_steps(*instruct), "train": train, "lr_scale": lr_scale, "data": {"train": ""}},
    })  # fmt: skip
    c.evals = ConfigDict()
    c.every = ConfigDict({"log": 20, "save": 1_000, "evaluate": 0})
    c.keep, c.writers, c.report = 2, ("jsonl", "csv"), ()
    if smoke:
        _shrink(c)
    if form == "lora":
        c.system.llm = ConfigDict({**c.system.get("llm", {}), "lora": {"rank": 4 if smoke else 128,
                                   "alpha": 8.0 if smoke else 256.0, "dropout": 0.05}})  # fmt: skip
        bridge = ("projector/.*", *(("image_newline",) if grids else ()))
        tuned = {"train": (*bridge, "llm/.*_lora/.*"), "lr": lora,
                 "lr_scale": tuple((pattern, instruct[2] / lora) for pattern in bridge)}  # fmt: skip
        c.stages.instruct.update(tuned)
    return c


def _steps(examples: int, batch: int, rate: float) -> dict[str, Any]:
    steps = math.ceil(examples / batch)
    return {"steps": steps, "lr": rate, "warmup": math.ceil(0.03 * steps), "schedule": "cosine", "chunks": 1}


def _shrink(c: ConfigDict) -> None:
    with c.ignore_type():
        c.init = "random"  # for want of weights to begin with
    c.system.scan, c.system.remat = False, None
    c.system.img, c.system.llm = ConfigDict(IMG), ConfigDict(LLM)
    texts = "emoji_scenes:train?length=100&parts=captions,conversation"
    c.tokenizer = ConfigDict({"train_on": texts, "vocab_size": 400, "symbols": CHATML})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.data.workers, c.data.text_length = 0, 320
    if c.data.task.grids:
        c.data.task.grids = ((32, 64), (64, 64))
    c.stages.align.data.update({"train": f"{SCENES},captions", "batch_size": 8, "text_length": 128})
    c.stages.align.data.task.of = "caption"
    c.stages.instruct.data.update({"train": f"{SCENES},conversation", "batch_size": 8})
    c.data.batch_size, c.data.train = 8, f"{SCENES},conversation"
    for name in c.stages:
        c.stages[name].steps, c.stages[name].warmup = 2, 1
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    c.keep = 4
