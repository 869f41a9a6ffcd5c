"""open_clip's configurations (`model_configs/*.json`, `open_clip_config.json`) of plain CLIP models and of SigLIP."""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import siglip_config
from mmjax.weights.config_checks import HEAD, act, causal_only, known, mlp, refuse, require, vit_only

OPEN_CLIP = {
    "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale",
    "custom_text", "cast_dtype", "output_dict",
}  # fmt: skip
OPEN_CLIP_VISION = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "act_kwargs", "norm_kwargs",
    "patch_dropout", "no_ln_pre", "final_ln_after_pool", "output_tokens", "ls_init_value",
    # of an attentional pool and of timm models, which are refused by attentional_pool and timm_model_name
    "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias",
    "timm_drop", "timm_drop_path",
}  # fmt: skip
OPEN_CLIP_TEXT = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs",
    "final_ln_after_pool", "output_tokens", "pad_id", "eos_id", "hf_tokenizer_name", "tokenizer_mode",
    "tokenizer_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
}  # fmt: skip
# Keys that may stand in a configuration as long as they say what plain CLIP does.
_PLAIN_BLOCKS: dict[str, tuple] = {"block_type": (None, "default")} | dict.fromkeys(
    ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), (False,)
)
_PLAIN_VISION = {
    **_PLAIN_BLOCKS,
    "attentional_pool": (False,),
    "pos_embed_type": ("learnable",),
    "pool_type": ("tok", "avg"),
    "timm_model_name": (None,),
}
PLAIN_TEXT = {
    **_PLAIN_BLOCKS,
    "ls_init_value": (None,),
    "embed_cls": (False,),
    "no_causal_mask": (False, True),
    "use_pad_mask": (False,),
    "pool_type": ("argmax", "eos", "last"),
    "proj_type": ("linear",),
    "proj_bias": (False, True),
    "hf_model_name": (None,),
}


def read_act(where: str, quick: bool, section: Mapping[str, Any]) -> str:
    """The activation of a tower."""
    kwargs = section.get("act_kwargs") or {}
    known(f"{where}.act_kwargs", kwargs, set() if quick else {"approximate"})
    require(f"{where}.act_kwargs", kwargs, {"approximate": ("none", "tanh")})
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu"


def read_eps(where: str, section: Mapping[str, Any]) -> float:
    """The epsilon of a tower's norms."""
    kwargs = section.get("norm_kwargs") or {}
    known(f"{where}.norm_kwargs", kwargs, {"eps"})
    return kwargs.get("eps", 1e-5)


def read_vision(where: str, quick: bool, img: Mapping[str, Any]) -> dict[str, Any]:
    """`vision_cfg` as the mapping of an image tower."""
    if img.get("timm_model_name") is not None:
        return siglip_config.from_timm(where, img)
    require(where, img, _PLAIN_VISION)
    known(where, img, OPEN_CLIP_VISION | set(_PLAIN_VISION))
    width, layers, size = img.get("width", 768), img.get("layers", 12), img.get("image_size", 224)
    if not isinstance(size, int):
        if len(set(size)) != 1:
            raise UserError(f"{where}: image_size = {size}: only square images are supported")
        size = size[0]
    head = img.get("head_width", HEAD)
    if not isinstance(layers, int):
        return {
            "kind": "resnet",
            "image_size": size,
            "layers": list(layers),
            "width": width,
            "heads": width * 32 // head,
        }
    return {
        "image_size": size,
        "patch": img.get("patch_size", 16),
        "width": width,
        "depth": layers,
        "heads": width // head,
        "mlp_dim": int(width * img.get("mlp_ratio", 4.0)),
        "act": read_act(where, quick, img),
        "eps": read_eps(where, img),
        **({"norm_pre": False} if img.get("no_ln_pre") else {}),
        **({"layer_scale": img["ls_init_value"]} if img.get("ls_init_value") is not None else {}),
        **_open_clip_pool(img),
        **({"patch_drop": img["patch_dropout"]} if img.get("patch_dropout") else {}),
    }


def _open_clip_pool(img: Mapping[str, Any]) -> dict[str, Any]:
    """Where the norm stands changes a mean over patches, and not the class token alone."""
    if img.get("pool_type", "tok") == "tok":
        return {}
    return {"pool": "mean", "norm_post": "pooled" if img.get("final_ln_after_pool") else "all"}


def open_clip_eos_id(config: Mapping[str, Any]) -> int | None:
    """The id whose first position is the end of a text, or None where the largest id is."""
    txt = config.get("model_cfg", config)["text_cfg"]
    return txt.get("eos_id", 2) if txt.get("pool_type", "argmax") == "eos" else None


def from_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`.

    Args:
      config: the model's configuration, alone or (open_clip_config.json) beside preprocess_cfg.
      where: the configuration's name for messages.

    Raises:
      UserError: a key or value that mmjax does not compute.
    """
    model = config.get("model_cfg", config)
    known(where, model, OPEN_CLIP)
    img, txt, quick = model["vision_cfg"], model["text_cfg"], bool(model.get("quick_gelu", False))
    at = f"{where}: text_cfg"
    require(at, txt, PLAIN_TEXT)
    known(at, txt, OPEN_CLIP_TEXT | set(PLAIN_TEXT))
    width, bias = txt.get("width", 512), model.get("init_logit_bias")
    scale, pixels = model.get("init_logit_scale"), config.get("preprocess_cfg") or {}
    siglip = img.get("timm_model_name") is not None
    return {
        "name": "clip",
        "embed_dim": model["embed_dim"],
        "img": read_vision(f"{where}: vision_cfg", quick, img),
        "txt": {
            "vocab": txt.get("vocab_size", 49408),
            "length": txt.get("context_length", 77),
            "width": width,
            "depth": txt.get("layers", 12),
            "heads": txt.get("heads", 8),
            "mlp_dim": int(width * txt.get("mlp_ratio", 4.0)),
            "act": read_act(at, quick, txt),
            "eps": read_eps(at, txt),
            **({"causal": False} if txt.get("no_causal_mask") else {}),
            **({"pool": "last"} if txt.get("pool_type") == "last" else {}),
        },
        **({"project_img": False, "scale_max": None} if siglip else {}),
        **({"txt_bias": True} if txt.get("proj_bias") else {}),
        **({"loss": "sigmoid", "bias_init": bias} if bias is not None else {}),
        **({"scale_init": math.exp(scale)} if scale is not None else {}),
        **{key: list(pixels.get(key, siglip_config.HALF)) for key in ("mean", "std") if key in pixels or siglip},
    }


def _ratio(section: Mapping[str, Any]) -> float:
    """The mlp_ratio from which the library computes `int(width * ratio)`."""
    width, wanted = section["width"], mlp(section)
    for ratio in (wanted / width, math.nextafter(wanted / width, math.inf)):
        if int(width * ratio) == wanted:
            return ratio
    raise UserError(f"no mlp_ratio gives a hidden width of {wanted} from {width}")


def details(section: Mapping[str, Any]) -> dict[str, Any]:
    """A transformer's keys that say where it differs from the library's."""
    eps, tanh = section.get("eps", 1e-5), act(section) == "gelu_tanh"
    return {
        "mlp_ratio": _ratio(section),
        **({"norm_kwargs": {"eps": eps}} if eps != 1e-5 else {}),
        **({"act_kwargs": {"approximate": "tanh"}} if tanh else {}),
    }


def write_vision(img: Mapping[str, Any], head: int) -> dict[str, Any]:
    """`vision_cfg` of CLIP's ResNet or ViT; `head`: width of a head."""
    vision: dict[str, Any] = {"image_size": img["image_size"], "width": img["width"], "head_width": head}
    if img.get("kind", "vit") == "resnet":
        return {**vision, "layers": list(img["layers"])}
    vision |= {"layers": img["depth"], "patch_size": img["patch"], **details(img)}
    vision |= {"no_ln_pre": True} if not img.get("norm_pre", True) else {}
    vision |= {"ls_init_value": img["layer_scale"]} if img.get("layer_scale") is not None else {}
    if img.get("pool", "cls") == "mean":
        vision |= {"pool_type": "avg", "final_ln_after_pool": img.get("norm_post", "pooled") == "pooled"}
    return vision | ({"patch_dropout": img["patch_drop"]} if img.get("patch_drop") else {})


def to_open_clip(
    system: Mapping[str, Any], *, eos_id: int | None = None, custom_text: bool = False, one_value: bool = False
) -> dict[str, Any]:
    """The model's configuration.

    Args:
      system: a mapping with every size spelled out.
      eos_id: the id that ends a text; None: the largest id of the text.
      custom_text: a custom-text model, whose text tower's keys begin with `text.`.
      one_value: the logit scale is stored as `[1]`.

    Raises:
      UserError: open_clip cannot say what the system is.
    """
    img, txt = system["img"], system["txt"]
    resnet = img.get("kind", "vit") == "resnet"
    siglip = siglip_config.is_siglip(system)
    if not siglip:
        causal_only(system, "open_clip", causal=(True, False), pool=("end", "last"), txt_bias=(True, False))
    if not resnet and not siglip:
        any_scale = (None, img.get("layer_scale"))
        pools = {"pool": ("cls", "mean"), "norm_post": ("pooled", "all")}
        vit_only(system, "open_clip", norm_pre=(True, False), layer_scale=any_scale, **pools)
    acts = {"txt.act": act(txt)} | ({} if resnet or siglip else {"img.act": act(img)})
    problems = [f"{key} is {act}" for key, act in acts.items() if act not in ("quick_gelu", "gelu", "gelu_tanh")]
    if len({act == "quick_gelu" for act in acts.values()}) > 1:
        problems.append(f"one tower with quick_gelu and one without: {acts}")
    scaled, size = img["width"] * 32 if resnet else img["width"], img.get("heads")
    head = scaled // size if size else HEAD
    if size and scaled // head != size:
        problems.append(f"no head_width gives {size} heads from {scaled}")
    refuse("open_clip", problems)
    vision = siglip_config.to_timm(system) if siglip else write_vision(img, head)
    text = {"context_length": txt["length"], "vocab_size": txt["vocab"], "width": txt["width"]}
    text |= {"heads": txt["heads"], "layers": txt["depth"], **details(txt)}
    text |= {"no_causal_mask": True} if not txt.get("causal", True) else {}
    text |= {"proj_bias": True} if system.get("txt_bias") else {}
    if txt.get("pool") == "last":
        text |= {"pool_type": "last"}
    elif eos_id not in (None, txt["vocab"] - 1):
        text |= {"pool_type": "eos", "eos_id": eos_id}
    model = {
        "embed_dim": system["embed_dim"],
        "vision_cfg": vision,
        "text_cfg": text,
        **({"quick_gelu": True} if acts["txt.act"] == "quick_gelu" else {}),
        **({"init_logit_bias": system.get("bias_init", -10.0)} if system.get("loss") == "sigmoid" else {}),
        **({"init_logit_scale": math.log(system["scale_init"])} if "scale_init" in system else {}),
        **({"nonscalar_logit_scale": True} if one_value else {}),
        **({"custom_text": True} if custom_text or siglip else {}),
    }
    pixels = {key: list(system[key]) for key in ("mean", "std") if key in system}
    return {"model_cfg": model, "preprocess_cfg": pixels} if pixels else model
