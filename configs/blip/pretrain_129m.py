"""BLIP ViT-B/16, pre-training on 129 million images (Li et al. 2022, §4.1): the 14 million and LAION's 115 million.

    mmjax train --config configs/blip/pretrain_129m.py --workdir runs/blip --config.data.train=webdataset:…
        --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins with DeiT-B/16 and BERT, as pretrain_14m.py. ViT-L/16: --config.system.size=large_pretrain_224
--config.stages.train.lr=2e-4 --config.data.batch_size=2400 (and a queue that this divides, 57,600), with AugReg's
weights: --config.init[0].path=L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1.npz.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 130_000_000, 2_880, 20


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    each, recipe = TEXTS // BATCH, sibling(__file__, "_recipe")
    return recipe.paper(
        "base_pretrain_224",
        variant,
        steps=EPOCHS * each,
        lr=3e-4,
        batch=BATCH,
        text_length=30,
        warmup=3_000,
        end_lr=3e-4 * 0.9**EPOCHS,
        schedule="exponential",
        scale=(0.2, 1.0),
        queue=57_600,
        alpha_steps=2 * each,
        init=recipe.towers(),
    )
