"""SigLIP's published configurations as system mappings, and back.

Sources: transformers `SiglipConfig`; the SigLIP models of timm's `vision_transformer.py`, which open_clip names.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights.config_checks import act, mlp, refuse, require
from mmjax.weights.siglip import is_siglip

HF_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
HF_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
HALF = (0.5, 0.5, 0.5)
# What makes a CLIP a SigLIP; a system differs from it in sizes alone.
SYSTEM: dict[str, Any] = {"project_img": False, "txt_bias": True, "loss": "sigmoid", "scale_max": None}
IMG: dict[str, Any] = {"patch_bias": True, "cls": False, "pool": "map", "norm_pre": False, "norm_post": "all"}
TXT: dict[str, Any] = {"causal": False, "pool": "last"}


def image_side(image_size: int, patch: int) -> dict[str, Any]:
    """The keys of an image's size: published models may leave out an edge narrower than a patch."""
    return {"image_size": image_size, "patch": patch, **({"crop_edge": True} if image_size % patch else {})}


# ------------------------------------------------------------------------------------------------- Hugging Face


def from_hf(img: Mapping[str, Any], txt: Mapping[str, Any], acts: Mapping[str, str], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`.

    Args:
      img, txt: the towers' settings over the library's defaults.
      acts: the library's names of activations -> ours.
      where: the configuration's name for messages.

    Raises:
      UserError: a value that mmjax does not compute.
    """
    require(f"{where}: vision_config", img, {"num_channels": (3,), "vision_use_head": (True,)})
    width = txt.get("projection_size") or txt["hidden_size"]
    if width != img["hidden_size"]:
        raise UserError(
            f"{where}: text_config.projection_size = {width}, vision_config.hidden_size = {img['hidden_size']}: they "
            "are the width of the shared space and must be equal"
        )

    def tower(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
        require(f"{where}: {name}", section, {"hidden_act": tuple(acts)})
        return {
            "width": section["hidden_size"],
            "depth": section["num_hidden_layers"],
            "heads": section["num_attention_heads"],
            "mlp_dim": section["intermediate_size"],
            "act": acts[section["hidden_act"]],
            "eps": section["layer_norm_eps"],
        }

    return {
        "name": "clip",
        "embed_dim": width,
        "img": {**image_side(img["image_size"], img["patch_size"]), **IMG, **tower("vision_config", img)},
        "txt": {"vocab": txt["vocab_size"], "length": txt["max_position_embeddings"], **TXT}
        | tower("text_config", txt),
        **SYSTEM,
        "mean": list(HALF),
        "std": list(HALF),
    }


def check(system: Mapping[str, Any], layout: str) -> None:
    """Raises UserError with every setting in which a system with an attention pool is no SigLIP."""
    given = {"system": (system, SYSTEM), "img": (system["img"], IMG), "txt": (system["txt"], TXT)}
    standard: dict[str, Any] = {"project_img": True, "txt_bias": False, "loss": "softmax", "scale_max": 100.0}
    standard |= {"patch_bias": False, "cls": True, "norm_pre": True, "norm_post": "pooled", "causal": True}
    off = {"layer_scale": None, "patch_stride": None} | dict.fromkeys(("q_bias", "k_bias", "v_bias", "out_bias"), True)
    problems = [
        f"{where}.{key} is {section.get(key, standard.get(key))!r}, SigLIP's is {value!r}"
        for where, (section, wanted) in given.items()
        for key, value in wanted.items()
        if key != "scale_max" and section.get(key, standard.get(key)) != value  # only training uses the bound
    ]
    problems += [f"img.{key} is {system['img'][key]!r}" for key, ok in off.items() if system["img"].get(key, ok) != ok]
    problems += ["txt.mask_padding is True"] if system["txt"].get("mask_padding") else []
    if system["embed_dim"] != system["img"]["width"]:
        problems.append(f"embed_dim is {system['embed_dim']}, img.width {system['img']['width']}: SigLIP's are equal")
    refuse(layout, problems)


def to_hf(system: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`SiglipConfig`.

    Args:
      system: a mapping with every size spelled out.
      names: our names of activations -> the library's, where they differ.

    Raises:
      UserError: the library cannot say what the system is.
    """
    check(system, "hf")
    img, txt = system["img"], system["txt"]

    def tower(section: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "attention_dropout": 0.0,
            "hidden_size": section["width"],
            "intermediate_size": mlp(section),
            "num_hidden_layers": section["depth"],
            "num_attention_heads": section["heads"],
            "hidden_act": names.get(act(section), act(section)),
            "layer_norm_eps": section.get("eps", 1e-5),
        }

    text = {
        **tower(txt),
        "model_type": "siglip_text_model",
        "vocab_size": txt["vocab"],
        "max_position_embeddings": txt["length"],
        "projection_size": system["embed_dim"],
        # The library's defaults are CLIP's ids, which a small vocabulary does not have; the model reads none of them.
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        **tower(img),
        "model_type": "siglip_vision_model",
        "num_channels": 3,
        "image_size": img["image_size"],
        "patch_size": img["patch"],
        "vision_use_head": True,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "dtype": "float32",
        "initializer_factor": 1.0,
        "text_config": text,
        "vision_config": vision,
    }


# ------------------------------------------------------------------------------------------------- timm, in open_clip

_WIDTHS = {  # width, depth, heads, hidden width
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
# (kind, patch, activation, image sizes): timm's first models were written with the exact GELU, the later ones without.
_MODELS = (
    ("base", 16, "gelu", (224, 256, 384, 512)),
    ("base", 32, "gelu_tanh", (256,)),
    ("large", 16, "gelu", (256, 384)),
    ("large", 16, "gelu_tanh", (512,)),
    ("so400m", 14, "gelu", (224, 378, 384)),
    ("so400m", 16, "gelu_tanh", (256, 384, 512)),
    ("giantopt", 16, "gelu_tanh", (256, 384)),
)


def _timm() -> dict[str, dict[str, Any]]:
    names = ("width", "depth", "heads", "mlp_dim")
    return {
        f"vit_{kind}_patch{patch}_siglip_{size}": {
            **image_side(size, patch),
            **IMG,
            **dict(zip(names, _WIDTHS[kind], strict=True)),
            "act": act,
            "eps": 1e-6,
        }
        for kind, patch, act, sizes in _MODELS
        for size in sizes
    }


TIMM = _timm()
"""timm's SigLIP image towers by name."""
_TIMM_KEYS = {
    "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
    "timm_drop_path", "image_size",
}  # fmt: skip


def from_timm(where: str, img: Mapping[str, Any]) -> dict[str, Any]:
    """The image tower that open_clip's `vision_cfg` names.

    Raises:
      UserError: none of SigLIP's, or with another head or image size.
    """
    name = img["timm_model_name"]
    if name not in TIMM:
        raise UserError(f"{where}: timm_model_name = {name!r} is not supported; supported: {', '.join(TIMM)}")
    unknown = sorted(set(img) - _TIMM_KEYS)
    if unknown:
        raise UserError(f"{where}: keys that mmjax does not know beside timm_model_name: {', '.join(unknown)}")
    tower = TIMM[name]
    sizes = (tower["image_size"], [tower["image_size"]] * 2)
    require(where, {"timm_pool": "", "timm_proj": "", **img},
            {"timm_pool": ("map",), "timm_proj": ("none",), "image_size": sizes})  # fmt: skip
    return dict(tower)


def to_timm(system: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's `vision_cfg` for a SigLIP.

    Raises:
      UserError: timm has no model of this size and activation.
    """
    check(system, "open_clip")
    img = {key: value for key, value in system["img"].items() if key in {"crop_edge", *next(iter(TIMM.values()))}}
    for name, tower in TIMM.items():
        if img == tower:
            return {
                "image_size": img["image_size"],
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            }
    near = [name for name, tower in TIMM.items() if {**img, "act": tower["act"]} == tower]
    why = f"{near[0]} has the activation {TIMM[near[0]]['act']}" if near else f"timm has only {', '.join(TIMM)}"
    refuse("open_clip", [f"its SigLIP image towers are timm's, and none of them is like this one: {why}"])
    raise AssertionError  # refuse has raised


__all__ = ["HF_TEXT", "HF_VISION", "TIMM", "check", "from_hf", "from_timm", "is_siglip", "to_hf", "to_timm"]
