"""What the readers and writers of published configurations check: supported values, known keys, expressible systems."""

from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError

HEAD = 64  # width of a head, hard-wired in OpenAI's code and the default of open_clip's image towers


def require(where: str, found: Mapping[str, Any], wanted: Mapping[str, tuple]) -> None:
    """Raises UserError with every key whose value is not among the wanted ones."""
    bad = [
        f"{key} = {found[key]!r} (supported: {', '.join(map(repr, ok))})"
        for key, ok in wanted.items()
        if key in found and found[key] not in ok
    ]
    if bad:
        raise UserError(f"{where}: not supported: " + "; ".join(bad))


def known(where: str, found: Mapping[str, Any], keys: set[str]) -> None:
    """Raises UserError with every key that is not among the known ones."""
    unknown = sorted(set(found) - keys)
    if unknown:
        raise UserError(
            f"{where}: keys that mmjax does not know: {', '.join(unknown)}; known: {', '.join(sorted(keys))}"
        )


def refuse(layout: str, problems: list[str]) -> None:
    """Raises UserError with the reasons, if there are any, why a layout cannot hold a system."""
    if problems:
        raise UserError(f"the layout {layout!r} cannot hold this system: " + "; ".join(problems))


def softmax_only(system: Mapping[str, Any], layout: str) -> None:
    """Raises UserError for a system with a logit_bias."""
    refuse(layout, ["it has no place for logit_bias (loss 'sigmoid')"] if system.get("loss") == "sigmoid" else [])


def vit_only(system: Mapping[str, Any], layout: str, **also: tuple) -> Mapping[str, Any]:
    """The image tower's mapping, if it is CLIP's ViT.

    Args:
      system: a system mapping.
      layout: for messages.
      **also: key -> values that this layout can say, instead of CLIP's one.

    Raises:
      UserError: with every setting that the layout cannot say.
    """
    img = system["img"]
    wanted: dict[str, tuple] = {
        "kind": ("vit",),
        "patch_bias": (False,),
        "patch_stride": (None, img.get("patch")),
        "crop_edge": (False,),
        "cls": (True,),
        "pool": ("cls",),
        "norm_pre": (True,),
        "norm_post": ("pooled",),
        "layer_scale": (None,),
        **dict.fromkeys(("q_bias", "k_bias", "v_bias", "out_bias"), (True,)),
        **also,
    }
    refuse(layout, [f"img.{key} is {img[key]!r}" for key, ok in wanted.items() if key in img and img[key] not in ok])
    return img


def causal_only(system: Mapping[str, Any], layout: str, **also: tuple) -> Mapping[str, Any]:
    """The text tower's mapping, if it is CLIP's: causal, read at its end, projected without a bias.

    Args:
      system: a system mapping.
      layout: for messages.
      **also: key -> values that this layout can say, instead of CLIP's one.

    Raises:
      UserError: with every setting that the layout cannot say.
    """
    txt = {**system["txt"], "txt_bias": system.get("txt_bias", False)}
    only = {"causal": (True,), "mask_padding": (False,), "pool": ("end",), "txt_bias": (False,), **also}
    problems = [f"txt.{key} is {txt[key]!r}" for key, ok in only.items() if key in txt and txt[key] not in ok]
    projected = system.get("project_img", system["img"].get("kind", "vit") == "vit")
    if projected != (system["img"].get("kind", "vit") == "vit"):
        problems.append(f"project_img is {projected}")
    refuse(layout, [problem.replace("txt.txt_bias", "txt_bias") for problem in problems])
    return system["txt"]


def act(section: Mapping[str, Any]) -> str:
    """The activation of a tower."""
    return section.get("act", "quick_gelu")


def mlp(section: Mapping[str, Any]) -> int:
    """The hidden width of a tower's feed-forward layers."""
    return section.get("mlp_dim", 4 * section["width"])
