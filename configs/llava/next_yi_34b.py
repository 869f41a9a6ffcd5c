"""LLaVA-NeXT (LLaVA-1.6) on Nous-Hermes-2-Yi-34B (Liu et al., blog of January 2024): pictures whole and in tiles.

    mmjax train --config configs/llava/next_yi_34b.py --workdir runs/next_34b --config.stages.align.data.train=llava:…
        --config.stages.instruct.data.train=llava:… --config.init[0].path=… --config.init[1].path=…
        --config.tokenizer.spec=sentencepiece:tokenizer.model

The stages of next_mistral_7b.py, with ChatML. The authors: about a day on 32 A100. `lora` is ours, with the rank and
the rates of LLaVA-1.5's: the language model's adapters and the projector train in the second stage, and nothing else.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling
from mmjax.data.anyres import GRIDS

ALIGN, INSTRUCT = 558_128, 760_000


def get_config(variant: str = "") -> ConfigDict:
    """The config; `lora` trains adapters of the language model; `smoke` and `lora_smoke` are forms of a few steps."""
    return sibling(__file__, "_recipe").paper(
        "next_yi_34b",
        variant,
        template="chatml_direct",
        align=(ALIGN, 256, 1e-3),
        instruct=(INSTRUCT, 128, 2e-5),
        train=(".*",),
        lr_scale=(("img/.*", 0.1),),
        grids=GRIDS,
        text_length=4_096,
        lora=2e-4,
    )
