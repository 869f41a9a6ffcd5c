"""CoCa fine-tuned to caption images (Yu et al. 2022, §4.2): 50,000 steps of 128 captions at 1e-5, images of 576 pixels.

    mmjax train --config configs/coca/caption.py --workdir runs/coca_caption --config.init=CHECKPOINT \
        --config.data.train=coco:… --config.tokenizer.spec=sentencepiece:MODEL

Hardware: as configs/coca/coca.py; a smaller model with --config.system.size=base. Expected: captions by
`mmjax generate`; the paper reports CIDEr 143.6 on COCO. No run of this config to its end has been measured.
`configs/coca/caption.py:smoke` trains a tiny model of the same kind on the built-in emoji, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    task, head, stage = {"kind": "caption"}, {"con_weight": 0.0}, {"lr": 1e-5}
    return sibling(__file__, "_recipe").finetune(variant, batch=128, steps=50_000, task=task, head=head, stage=stage)
