"""BLIP ViT-B/16, pre-training on 14 million images (Li et al. 2022, §4.1): contrast, matching, writing.

    mmjax train --config configs/blip/pretrain_14m.py --workdir runs/blip --config.data.train=webdataset:…
        --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins as the paper's did, with two published checkpoints in the working directory: DeiT-B/16
(deit_base_patch16_224-b5f2ef4d.pth) and BERT (the folder bert-base-uncased: config.json, vocab.txt and the weights).
Other places: --config.init[0].path=FILE, and the folder in --config.init[1].path and --config.init[2].path; from
nothing: '--config.init=()'. In a file of your own, as towers() of _recipe.py makes it:

    c.init = [{"path": "deit.pth", "load": ("img/.*",)},
              {"path": "bert-base-uncased", "skip": ("txt/types",), "rename": {"txt/text/(.*)": r"txt/fusion/\\1"},
               "grow_vocab": True},
              {"path": "bert-base-uncased", "load": (r"txt/text/.*/(attn|norm1)/.*",),
               "rename": {r"txt/text/(block_\\d+)/(attn|norm1)/(.*)": r"txt/fusion/\\1/\\2_dec/\\3"}}]

COCO, Visual Genome, SBU, CC3M and CC12M: 15.3 million texts. The paper used 32 GPUs.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

TEXTS, BATCH, EPOCHS = 15_300_000, 2_880, 20


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
