"""BLIP ViT-B/16, questions of VQA v2 and Visual Genome (released code), at 480 pixels.

    mmjax train --config configs/blip/vqa.py --workdir runs/blip_vqa
        --config.data.train=… --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins with the pre-trained model in runs/blip: the encoder as its encoder, the decoder as its decoder (elsewhere:
--config.init[0].path=DIR --config.init[1].path=DIR).
Reported for the base model from 129 million images: 78.24 on test-dev, 78.17 on test-std (Li et al. 2022).
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

QUESTIONS, BATCH, EPOCHS = 1_300_000, 256, 10


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    task = {"kind": "vqa", "answers": 6, "answer_length": 8, "weight": 0.2}
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "base_vqa_480",
        variant,
        steps=EPOCHS * QUESTIONS // BATCH,
        lr=2e-5,
        batch=BATCH,
        text_length=35,
        task=task,
        init=recipe.answers(),
        smoke="emoji_scenes:train?parts=image,questions",
    )
