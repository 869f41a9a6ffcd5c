"""BLIP ViT-B/16, captions of COCO (released code): the writing loss on texts that begin with "a picture of".

    mmjax train --config configs/blip/caption_coco.py --workdir runs/blip_caption
        --config.data.train=coco:… --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins with the pre-trained model in runs/blip (elsewhere: --config.init[0].path=DIR).
Reported for the base model from 129 million images: CIDEr 131.4, BLEU@4 39.4 on COCO's Karpathy test (Li et al.
2022), with 3 beams, 5 to 20 tokens.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 566_747, 256, 5


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    task = {"kind": "caption", "prompt": "a picture of "}
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "base_caption_384",
        variant,
        steps=EPOCHS * TEXTS // BATCH,
        lr=1e-5,
        batch=BATCH,
        text_length=40,
        task=task,
        init=recipe.writes(),
    )
