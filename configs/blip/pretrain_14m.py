"""BLIP ViT-B/16, pre-training on 14 million images (Li et al. 2022, §4.1): contrast, matching, writing.

    mmjax train --config configs/blip/pretrain_14m.py --workdir runs/blip --config.data.train=webdataset:…
        --config.tokenizer.spec=wordpiece:bert-base-uncased --config.init=…

COCO, Visual Genome, SBU, CC3M and CC12M: 15.3 million texts. The paper used 32 GPUs; its image encoder began with
DeiT-B/16's weights, its text model with BERT's.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 15_300_000, 2_880, 20


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    each = TEXTS // BATCH
    return sibling(__file__, "_recipe").paper(
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
    )
