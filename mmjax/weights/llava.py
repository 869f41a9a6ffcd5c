"""LLaVA's published layouts: the original code's, and Hugging Face's of several versions.

They differ in what stands before the names, which is read from the names themselves. Sources: LLaVA `llava_arch.py`
(commit c121f043), whose vision tower is transformers' `CLIPVisionModel`; transformers
`LlavaForConditionalGeneration`, `LlavaNextForConditionalGeneration`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights.clip import hf_vision, hf_vision_buffers
from mmjax.weights.layout import Row, Table
from mmjax.weights.llama import llama_buffers, llama_rows
from mmjax.weights.rows import linear
from mmjax.weights.transforms import LINEAR

LAYOUTS = ("hf", "llava")
# What stands before the names of each part, as the layouts of today write it.
FORMS: dict[str, dict[str, str]] = {
    "hf": {
        "img": "model.vision_tower.",
        "body": "model.language_model.",
        "head": "",
        "projector": "model.multi_modal_projector.",
        "newline": "model.",
    },
    "llava": {
        "img": "model.vision_tower.vision_tower.vision_model.",
        "body": "model.",
        "head": "",
        "projector": "model.mm_projector",
        "newline": "model.",
    },
}
_MARKS = {"img": "pre_layrnorm.weight", "body": "embed_tokens.weight", "head": "lm_head.weight",
          "newline": "image_newline"}  # fmt: skip


def form_of(keys: Collection[str], layout: str) -> dict[str, str]:
    """What stands before the names of each part in a checkpoint; the layout's own where a part is missing."""
    form = dict(FORMS[layout])
    marks = {**_MARKS, **({"projector": "linear_1.weight"} if layout == "hf" else {})}
    for part, mark in marks.items():
        found = sorted(key.removesuffix(mark) for key in keys if key.endswith(mark))
        if found:
            form[part] = found[0]
    return form


def llava_table(system: Mapping[str, Any], layout: str, form: Mapping[str, str]) -> Table:
    """The table of a LLaVA of this size.

    Args:
      system: a mapping that `systems.build` takes, with its sizes spelled out.
      layout: one of `LAYOUTS`.
      form: what stands before the names, see `form_of`.
    """
    img, llm = system["img"], system["llm"]
    rows = (
        *hf_vision(form["img"]),
        *_projector(system, layout, form["projector"]),
        *((Row(f"{form['newline']}image_newline", "image_newline"),) if system.get("newline") else ()),
        *llama_rows(llm, "llm", form["body"], form["head"]),
    )
    buffers = (*hf_vision_buffers(form["img"], img), *llama_buffers(llm, form["body"]))
    return Table(layout, rows, buffers, {"i": img["depth"], "l": llm["depth"]})


def _projector(system: Mapping[str, Any], layout: str, published: str) -> tuple[Row, ...]:
    layers, bias = system.get("layers", 2), system.get("bias", True)
    if layout == "hf":
        names = [f"{published}linear_{i + 1}" for i in range(layers)]
    else:  # of a sequence, in which activations count
        names = [f"{published}.{2 * i}" for i in range(layers)] if layers > 1 else [published]
    if layout == "hf" and layers != 2:
        raise UserError(f"the layout 'hf' cannot hold this system: its projector has two layers, not {layers}")
    rows: list[Row] = []
    for i, name in enumerate(names):
        ours = f"projector/layer_{i}"
        rows += linear(name, ours) if bias else (Row(f"{name}.weight", f"{ours}/kernel", LINEAR),)
    return tuple(rows)
