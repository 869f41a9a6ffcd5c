r"""BEiT-3 base: masked data modelling of images, texts and pairs (Wang et al. 2022).

    mmjax train --config configs/beit3/base.py --workdir runs/beit3_base \
        --config.data.train=PAIRS --config.data.alone.image.train=IMAGES --config.data.alone.text.train=TEXTS \
        --config.init=INIT

`tokenizer.spec` is the released SentencePiece model; INIT gives the image tokenizer a VQ-KD's weights.
Hardware: a TPU pod or a cluster of GPUs, in groups of 8 devices. Expected: 1,000,000 steps; the logs give each loss,
the norm of the gradients and pairs per second. No run of this config to its end has been measured. What the paper says
and what is ours: _recipe.py.
`configs/beit3/base.py:smoke` trains a tiny model of the same kind on the built-in scenes, in a minute on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("base", variant)
