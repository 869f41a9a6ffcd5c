"""BLIP ViT-B/16, statements about two images (NLVR2, released code).

    mmjax train --config configs/blip/nlvr2.py --workdir runs/blip_nlvr2
        --config.data.train=… --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins with the pre-trained model in runs/blip: both looks of a layer as its one look; what merges them and the
classifier begin at random. A model elsewhere: in a copy of this file, init=recipe.pairs(DIR).
Reported for the base model from 129 million images: 82.48 on dev, 83.08 on test-P (Li et al. 2022).
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

STATEMENTS, BATCH, EPOCHS = 86_373, 256, 15


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "base_nlvr2_384",
        variant,
        steps=EPOCHS * STATEMENTS // BATCH,
        lr=3e-5,
        batch=BATCH,
        text_length=50,
        task={"kind": "nlvr2"},
        init=recipe.pairs(),
    )
