"""LLaVA-NeXT (LLaVA-1.6) on Mistral-7B-Instruct 0.2 (Liu et al., blog of January 2024): pictures whole and in tiles.

    mmjax train --config configs/llava/next_mistral_7b.py --workdir runs/next --config.stages.align.data.train=llava:…
        --config.stages.instruct.data.train=llava:… --config.init[0].path=… --config.init[1].path=…
        --config.tokenizer.spec=sentencepiece:tokenizer.model

The projector alone on 558K captions; then everything on 760K conversations, the vision tower at a tenth of the rate. A
picture takes up to 2,928 places, so that rows are longer than LLaVA-1.5's. The authors used 32 A100 for a day and less.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.data.anyres import GRIDS

ALIGN, INSTRUCT = 558_128, 760_000


def get_config(variant: str = "") -> ConfigDict:
    """The config; `smoke` is a form of a few steps."""
    return sibling(__file__, "_recipe").paper(
        "next_mistral_7b",
        variant,
        template="mistral_instruct",
        align=(ALIGN, 256, 1e-3),
        instruct=(INSTRUCT, 128, 2e-5),
        train=(".*",),
        lr_scale=(("img/.*", 0.1),),
        grids=GRIDS,
        text_length=4_096,
    )
