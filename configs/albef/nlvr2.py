"""ALBEF fine-tuned for NLVR2: is a sentence true of two images? Each layer that looks at an image comes twice.

    mmjax train --config configs/albef/nlvr2.py:assign --workdir runs/albef_assign --config.data.train=PAIRS \\
        --config.tokenizer.spec=wordpiece:FOLDER
    mmjax train --config configs/albef/nlvr2.py --workdir runs/albef_nlvr2 --config.data.train=nlvr2:train.json \\
        --config.tokenizer.spec=wordpiece:FOLDER

The first is one epoch of text assignment on the pre-training's pairs, at 256 pixels: does a caption belong to the first
of two images, to the second, or to neither? It begins with the folder ALBEF (a checkpoint of pre-training): both layers
of a pair begin as the same layer, and share its keys and values. The second begins with what runs/albef_assign holds
(or, at '--config.init[0].path', the released pretrain_model_nlvr.pth); `:direct` is the second without the first.
A source of evaluation with `--config.evals`, or afterwards `mmjax eval --metric verdict --data nlvr2:dev.json`, gives
accuracy and consistency.

As in the release: no momentum teacher in text assignment, and contrastive features that it does not change. Ours: the
rate rises from 0 over its first 100 steps, there from 1e-5; and wrong images are drawn from the global batch.
Hardware: the paper's is 8 A100. Expected of the paper's model (14M images): 82.55 on dev and 83.14 on test-P. Not run
here at this size.
`configs/albef/nlvr2.py:assign_smoke` trains a tiny model on the built-in emoji_scenes, in seconds on a CPU; `:smoke`
and `:direct_smoke` resolve to one, but the built-in data has no statements on two pictures, so name a source.
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.core.config import sibling

PAIRS, ASSIGNED = 86_373, 5_100_000
PRETRAINED, BETWEEN = "ALBEF", "runs/albef_assign"
RANDOM = {"path": "random", "load": ("fc[12]/.*",)}


def get_config(variant: str = "") -> ConfigDict:
    recipe = sibling(__file__, "_recipe")
    form, smoke = variant.removesuffix("smoke").removesuffix("_"), "smoke" if variant.endswith("smoke") else ""
    if form == "assign":
        init = (*doubled(("img/.*", "img_proj/.*", "txt/.*")), {"path": "random", "load": ("assign_head/.*",)})
        c = recipe.paper(
            "assign_256", smoke, title="ALBEF, text assignment for NLVR2", pairs=ASSIGNED, epochs=1, batch=512,
            lr=2e-5, end_lr=2e-5, warmup=100, text_length=25, teacher=(), image={"preset": "albef"}, init=init,
            stage={"train": ("(img|txt|twin)/.*", "assign_head/.*")},
        )  # fmt: skip
        if smoke:
            c.init = "random"  # the features by which wrong images are drawn, too, which do not train
        return c
    init = ({"path": BETWEEN, "load": ("(img|txt|twin)/.*",)}, RANDOM)
    if form == "direct":
        init = (*doubled(("img/.*", "txt/.*")), RANDOM)
    return recipe.paper(
        "nlvr2_384", variant if form not in ("", "direct") else smoke, title="ALBEF, NLVR2", pairs=PAIRS, epochs=10,
        batch=128, lr=2e-5, end_lr=1e-6, text_length=30, teacher=("(img|txt|twin)/.*", "fc[12]/.*"),
        task={"kind": "nlvr2"}, grows=False, init=init,
    )  # fmt: skip


def doubled(load: tuple[str, ...], path: str = PRETRAINED, pairs: int = 6) -> tuple[dict[str, Any], ...]:
    """`config.init` from a pre-trained ALBEF: `load` without its upper layers, and of each of these two.

    Args:
      load: patterns of what keeps its name.
      path: the checkpoint.
      pairs: upper layers.
    """
    rest = {"path": path, "load": load, "skip": ("txt/head.*", "txt/fusion/.*")}
    layers = [_twin(path, pair, which) for pair in range(pairs) for which in range(2)]
    return rest, *layers, *(_shared(path, pair) for pair in range(pairs))


def _twin(path: str, pair: int, which: int) -> dict[str, Any]:
    old, new = f"txt/fusion/block_{pair}", f"twin/block_{2 * pair + which}"
    return {
        "path": path,
        "load": (f"{old}/.*",),
        "skip": (f"{old}/cross/[kv]/.*",),
        "rename": {f"{old}/(.*)": rf"{new}/\1"},
    }


def _shared(path: str, pair: int) -> dict[str, Any]:
    old = f"txt/fusion/block_{pair}/cross"
    return {"path": path, "load": (f"{old}/[kv]/.*",), "rename": {f"{old}/([kv])/(.*)": rf"twin/\1_{pair}/\2"}}
