"""CoCa fine-tuned to answer questions (Yu et al. 2022, §4.2): a pooler with one query over the decoder's states, and a
linear map to the answers; besides, question and answer are written as a caption is (`config.data.task.captions`, with
the weight `config.system.cap_weight`). 100,000 steps of 64 questions, images of 576 pixels.

    mmjax train --config configs/coca/vqa.py --workdir runs/coca_vqa --config.data.train=SOURCE \
        --config.tokenizer.spec=sentencepiece:MODEL

It begins with the pre-trained model in runs/coca_coca (elsewhere: --config.init.path=DIR), pooler and map at random.
`config.data.task.classes` lists the answers (3,129 in VQA v2: give them in a copy of this file, and their number as
`config.system.classes`). The frozen form trains pooler and map alone:
--config.stages.train.train='["class_pool/.*","class_head/.*"]'.
Hardware: as configs/coca/coca.py. Expected: the paper reports 82.3 on test-dev and on test-std of VQA v2. No run of
this config to its end has been measured.
`configs/coca/vqa.py:smoke` trains a tiny model of the same kind on the built-in emoji, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

ANSWERS = ("yes", "no")


def get_config(variant: str = "") -> ConfigDict:
    task = {"kind": "vqa", "classes": ANSWERS, "captions": "answer"}
    head = {"classes": len(ANSWERS), "class_loss": "sigmoid", "cap_weight": 1.0}
    stage = {"lr": 5e-4, "lr_scale": (("class_(pool|head)/.*", 1.0), (".*", 2e-5 / 5e-4))}
    recipe = sibling(__file__, "_recipe")
    c = recipe.finetune(variant, batch=64, steps=100_000, task=task, head=head, stage=stage)
    if not variant:
        with c.ignore_type():
            c.init = ConfigDict({"path": "runs/coca_coca"})
    return c
