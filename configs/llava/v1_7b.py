"""LLaVA 7B (Liu et al. 2023): CLIP L/14 at 224 pixels, one linear map, Vicuna v0 from the first LLaMA.

    mmjax train --config configs/llava/v1_7b.py --workdir runs/llava_v1 --config.stages.align.data.train=llava:…
        --config.stages.instruct.data.train=llava:… --config.init[0].path=… --config.init[1].path=…
        --config.tokenizer.spec=sentencepiece:tokenizer.model

CC-595K for one epoch, then LLaVA-Instruct-158K for three. The paper used 8 A100.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

ALIGN, INSTRUCT, EPOCHS = 595_375, 157_712, 3


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    return sibling(__file__, "_recipe").paper(
        "v1_7b", variant, template="v0", align=(ALIGN, 128, 2e-3), instruct=(EPOCHS * INSTRUCT, 32, 2e-5)
    )
