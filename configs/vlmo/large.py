r"""VLMo Large: images, then texts, then pairs (Bao et al. 2021, and the released code).

    mmjax train --config configs/vlmo/large.py --workdir runs/vlmo_large \
        --config.data.train=PAIRS --config.data.alone.image.train=IMAGES --config.data.alone.text.train=TEXTS \
        --config.init=INIT

`tokenizer.spec` is BERT's vocabulary, `wordpiece:vocab.txt`; INIT gives the image tokenizer a VQ-KD's weights.
Hardware: a slice of a TPU pod or a cluster of GPUs, in groups of 8 devices. Expected: three stages of 200,000 steps;
the logs give each loss, the norm of the gradients and pairs per second. No run of this config to its end has been
measured. What is published and what is ours: _recipe.py.
`configs/vlmo/large.py:smoke` trains a tiny model of the same kind on the built-in scenes, in a minute on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling


def get_config(variant: str = "") -> ConfigDict:
    return sibling(__file__, "_recipe").paper("large", variant)
