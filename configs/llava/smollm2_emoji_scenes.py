"""LLaVA-1.5 with a language model that exists: SmolLM2-135M-Instruct, kept still, and a small tower trained here.

    python experiments/smollm/run.py

prepares weights and tokenizer, trains the tower (`configs/llava/v1_5_emoji_scenes.py:see`) and then this config: first
`align`, the projector on captions, then `instruct`, projector and tower on conversations and questions. By itself:

    mmjax train --config configs/llava/smollm2_emoji_scenes.py --workdir runs/smollm --config.init[0].path=TOWER
        --config.init[1].path=SmolLM2-135M-Instruct.Q4_1.gguf --config.tokenizer.spec=TOKENIZER

A token costs 0.54 GFLOP: 0.27 forward through 135 million parameters, and as much back through them to the states
(gradients of their own are not made). A step of `align` has 16 x 56 tokens, one of `instruct` 8 x 176: 0.5 and 0.8
TFLOP. At 80 GFLOP/s of two cores, 120 steps of the one and 170 of the other take 12 and 27 minutes. By arithmetic: no
run of this config has been measured. `:smoke` has a tiny decoder that has learned nothing.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.core.errors import UserError

small = sibling(__file__, "v1_5_emoji_scenes")
MARKS = ("<|im_start|>", "<|im_end|>")


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps.

    Raises:
      UserError: another variant.
    """
    if variant not in ("", "smoke"):
        raise UserError(f"variant {variant!r} does not exist; there is 'smoke', or none")
    c = small.get_config("talk")
    c.title = "LLaVA on generated scenes, with SmolLM2"
    with c.ignore_type():
        c.init = [ConfigDict({"path": "", "load": (f"{part}/.*",)}) for part in ("img", "llm")]
        c.tokenizer = ConfigDict({"spec": ""})
    c.system.llm = ConfigDict({"size": "smollm2_135m"})
    c.system.loss_chunk = 16  # of 49,152 logits each
    c.system.end_ids = (2,)
    c.data.task.template = "chatml"
    c.data.batch_size, c.data.text_length = 8, 176
    captions = c.stages.align.data
    captions.batch_size, captions.text_length = 16, 56
    c.stages.align.update({"steps": 120, "lr": 1e-3, "warmup": 10})
    # The tower was made with another decoder: it moves, a fifth as fast as the projector.
    c.stages.instruct.update({"steps": 170, "lr": 1e-3, "warmup": 10, "train": ("projector/.*", "img/.*")})
    c.stages.instruct.lr_scale = (("img/.*", 0.2),)
    c.evals.test_vqa.data = f"emoji_scenes:test?size={small.SIZE}&length=60&parts=image,questions"
    c.every = ConfigDict({"log": 10, "save": 100, "evaluate": 0})
    if variant:
        _shrink(c)
    return c


def _shrink(c: ConfigDict) -> None:
    tiny = small.get_config("smoke")
    with c.ignore_type():
        c.init = "random"  # for want of weights to begin with
        c.tokenizer = ConfigDict({**tiny.tokenizer, "symbols": MARKS})
    c.system.img, c.system.llm = tiny.system.img, tiny.system.llm
    c.system.end_ids = (5,)  # the second of the marks, behind padding, begin, end and unknown
    c.data.batch_size, c.data.workers, c.data.text_length = 8, 0, 320
    c.stages.align.data.update({"batch_size": 8, "text_length": 96})
    for name in c.stages:
        c.stages[name].steps, c.stages[name].warmup = 2, 1
    c.evals.test_vqa = tiny.evals.test_vqa
    c.every, c.keep = tiny.every, tiny.keep
