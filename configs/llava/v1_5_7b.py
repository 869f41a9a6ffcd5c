"""LLaVA-1.5 7B (Liu et al. 2024): CLIP L/14 at 336 pixels, a two-layer map, Vicuna 1.5.

    mmjax train --config configs/llava/v1_5_7b.py --workdir runs/llava_1_5 --config.stages.align.data.train=llava:…
        --config.stages.instruct.data.train=llava:… --config.init[0].path=… --config.init[1].path=…
        --config.tokenizer.spec=sentencepiece:tokenizer.model

LCS-558K, then the mixture of 665K, an epoch each; pictures get a border of CLIP's mean colour that makes them squares.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

ALIGN, INSTRUCT = 558_128, 665_298


def get_config(variant: str = "") -> ConfigDict:
    """The config; `lora` trains adapters of the language model; `smoke` and `lora_smoke` are forms of a few steps."""
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "v1_5_7b",
        variant,
        template="vicuna_v1",
        align=(ALIGN, 256, 1e-3),
        instruct=(INSTRUCT, 128, 2e-5),
        image={"mode": "pad", "background": recipe.MEAN_COLOUR},
        lora=2e-4,
    )
