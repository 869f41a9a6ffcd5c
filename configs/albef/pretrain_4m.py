"""ALBEF's pre-training on 4 million images: contrast, matching and masked words, with a momentum teacher.

    mmjax train --config configs/albef/pretrain_4m.py --workdir runs/albef --config.data.train=SOURCE \\
        --config.tokenizer.spec=wordpiece:bert-base-uncased

It begins as the paper's did, with two published checkpoints in the working directory: DeiT-B/16
(deit_base_patch16_224-b5f2ef4d.pth) and BERT (the folder bert-base-uncased: config.json, vocab.txt and the weights).
Other places: --config.init[0].path=FILE --config.init[1].path=FOLDER; from nothing: '--config.init=()'. In a file of
your own, as towers() of _recipe.py makes it:

    c.init = [{"path": "deit.pth", "load": ("img/.*",)},
              {"path": "bert-base-uncased", "load": ("txt/.*",),
               "rename": {r"txt/text/block_6/(.*)": r"txt/fusion/block_0/\\1", …}}]  # and 7 to 11

The account that the run prints says what came from where: all of BERT but its pooler and its head for the next
sentence, DeiT but its classifier, its positions resized from 224 to 256 pixels; cross-attention, the projections and
the matching head begin at random.

Data: COCO, Visual Genome, SBU and Conceptual Captions, 5.1 million pairs.
Hardware: the paper's is 8 A100. Expected: 298,830 steps of 512 pairs; the logs give the three losses (itc, itm, mlm),
the norm of the gradients and pairs per second. No run of this config to its end has been measured.
Which numbers come from the release and which do not: _recipe.py.
`configs/albef/pretrain_4m.py:smoke` trains a tiny model on the built-in emoji_scenes, in seconds on a CPU.
"""

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS = 5_100_000


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    return recipe.paper(
        "pretrain_256", variant, title="ALBEF, pre-training on 4M images", pairs=PAIRS, epochs=30, batch=512, lr=1e-4,
        end_lr=1e-5, warmup=2_000, text_length=25, teacher=recipe.TEACHER, image={"preset": "albef"},
        stage={"also_decay": ("img/cls", "tau")}, init=recipe.towers(),
    )  # fmt: skip
