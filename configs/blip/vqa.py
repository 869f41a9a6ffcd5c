"""BLIP ViT-B/16, questions of VQA v2 and Visual Genome (released code), at 480 pixels.

    mmjax train --config configs/blip/vqa.py --workdir runs/blip_vqa --config.init=runs/blip
        --config.data.train=… --config.tokenizer.spec=wordpiece:bert-base-uncased

Reported for the base model from 129 million images: 78.24 on test-dev, 78.17 on test-std (Li et al. 2022).
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

QUESTIONS, BATCH, EPOCHS = 1_300_000, 256, 10


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    task = {"kind": "vqa", "answers": 6, "answer_length": 8, "weight": 0.2}
    return sibling(__file__, "_recipe").paper(
        "base_vqa_480",
        variant,
        steps=EPOCHS * QUESTIONS // BATCH,
        lr=2e-5,
        batch=BATCH,
        text_length=35,
        task=task,
        smoke="emoji_scenes:train?parts=image,questions",
    )
