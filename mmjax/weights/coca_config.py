"""open_clip's configurations of CoCa as system mappings, and back.

Source: open_clip 3.3.0, `coca_model.py` and `model_configs/coca_*.json`. Its decoder takes width, heads and layers from
`multimodal_cfg` and nothing else: MLPs are four times as wide, norms have 1e-5, whatever stands there.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import open_clip_config as clip
from mmjax.weights.config_checks import act, known, mlp, refuse, require

BEGIN, END = 49406, 49407  # with which the library generates, whatever the vocabulary
_DECODER = {"dim_head", "n_queries", "attn_pooler_heads"}  # which the library does not read
_TEXT = {**clip.PLAIN_TEXT, "embed_cls": (True,), "no_causal_mask": (False,)}
_TEXT.pop("ls_init_value")
_VISION = {"attentional_pool": (False, True), "timm_model_name": (None,)}


def is_coca(config: Mapping[str, Any] | None) -> bool:
    """Whether a configuration is one of CoCa."""
    return config is not None and "multimodal_cfg" in config.get("model_cfg", config)


def from_open_clip(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`.

    Args:
      config: the model's configuration, alone or (open_clip_config.json) beside preprocess_cfg.
      where: the configuration's name for messages.

    Raises:
      UserError: a key or value that mmjax does not compute.
    """
    model = config.get("model_cfg", config)
    known(where, model, clip.OPEN_CLIP | {"multimodal_cfg", "pad_id"})
    require(where, model, {"init_logit_bias": (None,)})
    vision, text, upper = model["vision_cfg"], model["text_cfg"], model["multimodal_cfg"]
    quick = bool(model.get("quick_gelu", False))
    at, below = f"{where}: text_cfg", f"{where}: multimodal_cfg"
    require(at, {"embed_cls": False, **text}, _TEXT)
    known(at, text, clip.OPEN_CLIP_TEXT | set(_TEXT) | {"ls_init_value"})
    known(below, upper, clip.OPEN_CLIP_TEXT | set(clip.PLAIN_TEXT) | _DECODER)
    width, pooled = text.get("width", 512), bool(vision.get("attentional_pool", False))
    if upper.get("width", 512) != width:
        raise UserError(f"{below}: width = {upper.get('width', 512)}, but the text has states of {width}")
    require(f"{where}: vision_cfg", vision, _VISION | ({"pool_type": ("tok",)} if pooled else {}))
    img = clip.read_vision(f"{where}: vision_cfg", quick, {**vision, "attentional_pool": False})
    if img.get("kind") == "resnet":
        raise UserError(f"{where}: vision_cfg: layers = {vision['layers']}: CoCa's image tower is a ViT")
    if pooled:
        img |= {"pool": "none", "norm_post": "none"}
        pool = {"pool": "first", "queries": vision.get("attn_pooler_queries", 256), "pool_width": model["embed_dim"]}
        pool |= {"pool_heads": vision.get("attn_pooler_heads", 8)}
    else:
        img |= {"pool": img.get("pool", "cls"), "norm_post": "pooled" if vision.get("final_ln_after_pool") else "all"}
        pool = {"pool": "none"}
    scale, pixels = model.get("init_logit_scale"), config.get("preprocess_cfg") or {}
    return {
        "name": "coca",
        "embed_dim": model["embed_dim"],
        "img": img,
        "txt": {
            "vocab": text.get("vocab_size", 49408),
            "length": text.get("context_length", 77),
            "width": width,
            "depth": text.get("layers", 12),
            "heads": text.get("heads", 8),
            "mlp_dim": int(width * text.get("mlp_ratio", 4.0)),
            "act": clip.read_act(at, quick, text),
            "eps": clip.read_eps(at, text),
            "cls_shift": True,
            **_scaled(text),
        },
        "dec": {
            "depth": upper.get("layers", 12),
            "heads": upper.get("heads", 8),
            "mlp_dim": 4 * width,
            "act": "quick_gelu" if quick else "gelu",
            "eps": 1e-5,
            "mlps": 2,
            **_scaled(upper),
        },
        **pool,
        "pad_id": text.get("pad_id", 0),
        "ignore_id": 0,
        **({"begin_id": BEGIN, "end_ids": (END,)} if text.get("vocab_size", 49408) > END else {}),
        **({"txt_bias": True} if text.get("proj_bias") else {}),
        **({"scale_init": math.exp(scale)} if scale is not None else {}),
        **{key: list(pixels[key]) for key in ("mean", "std") if key in pixels},
    }


def _scaled(section: Mapping[str, Any]) -> dict[str, Any]:
    value = section.get("ls_init_value")
    return {} if value is None else {"layer_scale": value}


def decoder_of(system: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's mapping, with what it takes over from the text tower."""
    txt = system["txt"]
    taken = {"heads": txt["heads"], "mlp_dim": mlp(txt), "act": act(txt), "eps": txt.get("eps", 1e-5)}
    return {**taken, "mlps": 1, **system["dec"]}


def to_open_clip(system: Mapping[str, Any], *, one_value: bool = False) -> dict[str, Any]:
    """The model's configuration.

    Args:
      system: a mapping with every size spelled out.
      one_value: the logit scale is stored as `[1]`.

    Raises:
      UserError: open_clip cannot say what the system is; the message lists every reason.
    """
    img, txt, dec = system["img"], system["txt"], decoder_of(system)
    pooled = system.get("pool", "cascade") == "first"
    _check(system, dec, pooled)
    vision = clip.write_vision({key: value for key, value in img.items() if key not in ("pool", "norm_post")},
                               img["width"] // img["heads"]) | {"output_tokens": True}  # fmt: skip
    if pooled:
        vision |= {"attentional_pool": True, "attn_pooler_queries": system.get("queries", 256)}
        vision |= {"attn_pooler_heads": system.get("pool_heads", txt["heads"])}
    else:
        vision |= {"pool_type": "avg"} if img.get("pool") == "mean" else {}
        vision |= {"final_ln_after_pool": True} if img.get("norm_post") == "pooled" else {}
    text = {"context_length": txt["length"], "vocab_size": txt["vocab"], "width": txt["width"]}
    upper = {**text, "heads": dec["heads"], "layers": dec["depth"]}
    text |= {"heads": txt["heads"], "layers": txt["depth"], **clip.details(txt), "embed_cls": True}
    text |= {"output_tokens": True, **({"pad_id": system["pad_id"]} if system["pad_id"] else {})}
    text |= {"proj_bias": True} if system.get("txt_bias") else {}
    for section, ours in ((text, txt), (upper, dec)):
        section |= {"ls_init_value": ours["layer_scale"]} if ours.get("layer_scale") is not None else {}
    model = {
        "embed_dim": system["embed_dim"],
        "vision_cfg": vision,
        "text_cfg": text,
        "multimodal_cfg": upper,
        **({"quick_gelu": True} if act(txt) == "quick_gelu" else {}),
        **({"init_logit_scale": math.log(system["scale_init"])} if "scale_init" in system else {}),
        **({"nonscalar_logit_scale": True} if one_value else {}),
        "custom_text": True,
    }
    pixels = {key: list(system[key]) for key in ("mean", "std") if key in system}
    return {"model_cfg": model, "preprocess_cfg": pixels} if pixels else model


def _check(system: Mapping[str, Any], dec: Mapping[str, Any], pooled: bool) -> None:
    """Raises UserError with every setting that open_clip's CoCa does not have."""
    img, txt, quick = system["img"], system["txt"], act(system["txt"]) == "quick_gelu"
    plain = "quick_gelu" if quick else "gelu"
    bias = dict.fromkeys(("q_bias", "k_bias", "v_bias", "out_bias"), True)
    wanted: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "": ({"project": True, "classes": None, "ignore_id": 0, "eps": 1e-5}, system),
        "img.": ({"kind": "vit", "patch_bias": False, "crop_edge": False, "cls": True, **bias}, img),
        "txt.": ({"causal": True, "cls_shift": True}, {"cls_shift": False, **txt}),
        "dec.": ({"mlps": 2, "act": plain, "eps": 1e-5, "mlp_dim": 4 * txt["width"]}, dec),
    }
    problems = [f"{at}{key} is {there[key]!r}" for at, (only, there) in wanted.items()
                for key, value in only.items() if key in there and there[key] != value]  # fmt: skip
    if system.get("pad_id") is None:
        problems.append("pad_id is not set: it tells padding by an id")
    if system.get("ignore_id") is None:
        problems.append("ignore_id is not set: it never trains on the id 0")
    if system.get("pool", "cascade") not in ("first", "none"):
        problems.append(f"pool is {system.get('pool', 'cascade')!r}: it has no second pooler")
    if pooled and system.get("pool_width", txt["width"]) != system["embed_dim"]:
        problems.append(f"pool_width is {system.get('pool_width')}, not embed_dim")
    towers = {"img.act": act(img), "txt.act": act(txt)}
    problems += [
        f"{key} is {found}" for key, found in towers.items() if found not in ("quick_gelu", "gelu", "gelu_tanh")
    ]
    problems += [f"img.act is {act(img)} and txt.act is {act(txt)}"] if (act(img) == "quick_gelu") != quick else []
    refuse("open_clip", problems)
