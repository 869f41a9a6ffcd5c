"""ALBEF's released checkpoints, of pre-training and of all tasks; and those that LAVIS trained, without token types.

The releases are `.pth` files with the key `model`; their configuration is a config.json beside it (the keys of the
repository's yaml files, `bert_config` in the place of its path), or what the shapes say: heads are then 64 wide, as in
the only published size. Source: salesforce/ALBEF, `models/model_*.py`.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import rows
from mmjax.weights.config_checks import HEAD, refuse, require, vit_only
from mmjax.weights.family import Family, Origin, Published
from mmjax.weights.files import Tensors
from mmjax.weights.layout import Alias, Buffer, Row, Table
from mmjax.weights.transforms import LINEAR, ONE_VALUE, Reshape

LAYOUT = "albef"
ACTS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
LAYER = re.compile(r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.")


PAIRS = ("nlvr2", "assign")  # tasks of two images
UNUSED = dict.fromkeys(("text_proj.weight", "text_proj.bias", "temp"), "text assignment has it and does not use it")


def _recognise(published: Published) -> tuple[dict[str, Any], Origin] | None:
    keys = published.tensors.keys()
    if "visual_encoder.cls_token" not in keys or not any(LAYER.match(key) for key in keys):
        return None
    config = published.config
    if config is None:
        config = _inferred(published.tensors, keys)
    if config is None or "fusion_layer" not in config.get("bert_config", {}):
        return None
    form = _form(published.tensors, set(keys), config["bert_config"]["fusion_layer"], published.where)
    return system_from(config, form, published.where), Origin(LAYOUT, config, form=form)


def _form(tensors: Tensors, keys: set[str], fusion: int, where: str) -> dict[str, Any]:
    """What only the tensors tell: task, numbers of layers, whether there are token types, queue, momentum copies."""
    depth = 1 + max(int(match[1]) for key in keys if (match := LAYER.match(key)))
    text = "text_encoder.bert" if any(key.startswith("text_encoder.bert.") for key in keys) else "text_encoder"
    if "text_decoder.bert.embeddings.word_embeddings.weight" in keys:
        task = "vqa"
    elif "ta_head.weight" in keys:
        task = "assign"
    elif "cls_head.0.weight" in keys:
        task = "nlvr2" if _twins(tensors, keys, text, fusion, depth) else "ve"
    elif "itm_head.weight" in keys:
        task = "pretrain" if "text_encoder.cls.predictions.bias" in keys else "retrieval"
    else:
        raise UserError(
            f"{where}: the tensors are of no form of ALBEF that mmjax knows: no itm_head, cls_head, ta_head, decoder"
        )
    types = f"{text}.embeddings.token_type_embeddings.weight"
    form = {
        "task": task,
        "depth": depth,
        "types": tensors.shape(types)[0] if types in keys else 0,
        "momentum": "visual_encoder_m.cls_token" in keys,
        "queue": tensors.shape("image_queue")[1] if "image_queue" in keys else 0,
    }
    if task == "vqa":
        layers = (re.match(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.", key) for key in keys)
        form["decoder"] = 1 + max(int(match[1]) for match in layers if match)
    if "cls_head.2.weight" in keys:
        form["classes"] = tensors.shape("cls_head.2.weight")[0]
    return form


def _twins(tensors: Tensors, keys: set[str], text: str, fusion: int, depth: int) -> bool:
    """Whether the layers with cross-attention come in pairs with the same keys: NLVR2's two images."""
    one, two = (f"{text}.encoder.layer.{i}.crossattention.self.key.weight" for i in (fusion, fusion + 1))
    if (depth - fusion) % 2 or not {one, two} <= keys:
        return False
    return bool((tensors.read(one) == tensors.read(two)).all())


def _inferred(tensors: Tensors, keys: Collection[str]) -> dict[str, Any] | None:
    """A configuration from the shapes, where no file holds one; None: not of ALBEF."""
    text = "text_encoder.bert" if any(key.startswith("text_encoder.bert.") for key in keys) else "text_encoder"
    cross = re.compile(rf"{re.escape(text)}\.encoder\.layer\.(\d+)\.crossattention\.self\.key\.weight")
    fusion = min((int(match[1]) for key in keys if (match := cross.fullmatch(key))), default=0)
    if not fusion:  # BLIP's every layer has cross-attention
        return None
    width, _, patch, _ = tensors.shape("visual_encoder.patch_embed.proj.weight")
    side = round((tensors.shape("visual_encoder.pos_embed")[1] - 1) ** 0.5)
    blocks = [int(m[1]) for key in keys if (m := re.match(r"visual_encoder\.blocks\.(\d+)\.", key))]
    vocab, hidden = tensors.shape(f"{text}.embeddings.word_embeddings.weight")
    mlp = tensors.shape("visual_encoder.blocks.0.mlp.fc1.weight")[0]
    config = {
        "image_res": side * patch,
        "vit": {"patch_size": patch, "embed_dim": width, "depth": max(blocks) + 1, "num_heads": width // HEAD,
                "mlp_ratio": mlp / width},
        "bert_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "num_attention_heads": hidden // HEAD,
            "intermediate_size": tensors.shape(f"{text}.encoder.layer.0.intermediate.dense.weight")[0],
            "max_position_embeddings": tensors.shape(f"{text}.embeddings.position_embeddings.weight")[0],
            "fusion_layer": fusion,
        },
    }  # fmt: skip
    if "vision_proj.weight" in keys:
        config["embed_dim"] = tensors.shape("vision_proj.weight")[0]
    return config


# ------------------------------------------------------------------------------------------------- configuration


def system_from(config: Mapping[str, Any], form: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping for `systems.build`, every size spelled out.

    Raises:
      UserError: a key is missing, or a value is not supported.
    """
    try:
        vit, bert = {**VIT, **config.get("vit", {})}, {**BERT, **config["bert_config"]}
        require(f"{where}: bert_config", bert, {"hidden_act": tuple(ACTS), "position_embedding_type": ("absolute",)})
        txt = {
            "vocab": bert["vocab_size"],
            "length": bert["max_position_embeddings"],
            "width": bert["hidden_size"],
            "depth": form["depth"],
            "heads": bert["num_attention_heads"],
            "mlp_dim": bert["intermediate_size"],
            "act": ACTS[bert["hidden_act"]],
            "eps": bert["layer_norm_eps"],
            "types": form["types"],
            "cross_from": bert["fusion_layer"],
            "dropout": bert["hidden_dropout_prob"],
            "attn_dropout": bert["attention_probs_dropout_prob"],
        }
        system = {
            "name": "albef",
            "task": form["task"],
            "img": {
                "image_size": config["image_res"],
                "patch": vit["patch_size"],
                "width": vit["embed_dim"],
                "depth": vit["depth"],
                "heads": vit["num_heads"],
                "mlp_dim": int(vit["embed_dim"] * vit["mlp_ratio"]),
            },
            "txt": txt,
        }
        if form["task"] != "assign":
            system["alpha"] = config.get("alpha", 0.4)
        else:
            system["embed_dim"] = config["embed_dim"]
        if form["task"] in ("pretrain", "retrieval"):
            contrast = {
                "embed_dim": config["embed_dim"],
                "queue": form["queue"],
                "temperature": config.get("temp", 0.07),
            }
            system |= contrast
        if form["task"] == "pretrain":
            system["mask_rate"] = config.get("mlm_probability", 0.15)
        if form["task"] == "vqa":
            system["dec"] = {**txt, "depth": form["decoder"], "cross_from": 0}
        if "classes" in form:
            system["classes"] = form["classes"]
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing") from error
    return system


# The repository's values where a configuration says nothing.
VIT = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4}
BERT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "position_embedding_type": "absolute", "max_position_embeddings": 512}  # fmt: skip


def _target(
    system: Mapping[str, Any], layout: str, origin: Origin | None, _eos_id: int | None, paths: Collection[str]
) -> Origin:
    """The configuration and form to write."""
    txt, img = system["txt"], vit_only(system, layout, patch_bias=(True,), pool=("none",), norm_pre=(False,),
                                       norm_post=("all",), act=("gelu",), eps=(1e-6,))  # fmt: skip
    names = {ours: theirs for theirs, ours in ACTS.items()}
    problems = [f"txt.act is {txt['act']}"] if txt.get("act", "gelu") not in names else []
    if not txt.get("cross_from"):
        problems.append("txt has no layers without cross-attention")
    refuse(layout, problems)
    form = {
        "task": system["task"],
        "depth": txt["depth"],
        "types": txt.get("types", 2),
        "momentum": any(path.startswith("teacher/") for path in paths),
        "queue": system.get("queue", 65_536) if system["task"] in ("pretrain", "retrieval") else 0,
    }
    if "dec" in system:
        form["decoder"] = system["dec"]["depth"]
    if system["task"] in ("nlvr2", "ve"):
        form["classes"] = system.get("classes", {"nlvr2": 2, "ve": 3}[system["task"]])
    mlp = txt.get("mlp_dim", 4 * txt["width"])
    config: dict[str, Any] = {
        "image_res": img["image_size"],
        "vision_width": img["width"],
        "alpha": system.get("alpha", 0.4),
        "momentum": 0.995,
        "distill": form["momentum"],
        "vit": {"patch_size": img["patch"], "embed_dim": img["width"], "depth": img["depth"], "num_heads": img["heads"],
                "mlp_ratio": img.get("mlp_dim", 4 * img["width"]) / img["width"]},
        "bert_config": {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "attention_probs_dropout_prob": txt.get("attn_dropout", 0.0),
            "hidden_act": names[txt.get("act", "gelu")],
            "hidden_dropout_prob": txt.get("dropout", 0.0),
            "hidden_size": txt["width"],
            "initializer_range": 0.02,
            "intermediate_size": mlp,
            "layer_norm_eps": txt.get("eps", 1e-12),
            "max_position_embeddings": txt["length"],
            "num_attention_heads": txt["heads"],
            "num_hidden_layers": txt["depth"],
            "pad_token_id": 0,
            "type_vocab_size": txt.get("types", 2),
            "vocab_size": txt["vocab"],
            "fusion_layer": txt["cross_from"],
            "encoder_width": img["width"],
        },
    }  # fmt: skip
    if "embed_dim" in system:
        config |= {
            "embed_dim": system["embed_dim"],
            "queue_size": form["queue"],
            "temp": system.get("temperature", 0.07),
        }
    if "dec" in system:
        config["decoder_layers"] = form["decoder"]
    if system["task"] == "pretrain":
        config["mlm_probability"] = system.get("mask_rate", 0.15)
    if origin is not None and origin.layout == layout:
        before, now = (system_from(each, form, "config") for each in (origin.config, config))
        config = origin.config if before == now else config
    return Origin(layout, config, form=form)


# ------------------------------------------------------------------------------------------------- tensors


def _table(system: Mapping[str, Any], origin: Origin) -> Table:
    form, txt = origin.form, system["txt"]
    task, made = form["task"], [*_copy(system, "", form)]
    if form["momentum"]:
        made += [dataclasses.replace(row, collection="teacher") for row in _copy(system, "_m", form)]
    if task in ("pretrain", "retrieval"):
        made += [*rows.linear("itm_head", "itm_head"), Row("temp", "tau")]
    if form["queue"]:
        made += _queue(form["queue"], numbered=task == "retrieval")
    if task == "assign":
        made += [*rows.linear("vision_proj", "img_proj"), *rows.linear("ta_head", "assign_head")]
    aliases: list[Alias] = []
    buffers: list[Buffer] = []
    for m in ("", "_m") if form["momentum"] else ("",):
        text = _text(task, m)
        buffers.append(rows.position_ids(f"{text}.embeddings", txt["length"]))
        if task == "pretrain":
            aliases += rows.bert_head_aliases(f"text_encoder{m}.cls.predictions", f"{text}.embeddings")
        if task == "vqa":
            words = f"text_decoder{m}.bert.embeddings"
            aliases += rows.bert_head_aliases(f"text_decoder{m}.cls.predictions", words)
            buffers.append(rows.position_ids(words, system["dec"]["length"]))
        if task in PAIRS:
            aliases += _twin_aliases(f"{text}.encoder", form["depth"], txt["cross_from"])
    unneeded = UNUSED if task == "assign" else {}
    return Table(LAYOUT, tuple(made), tuple(buffers), {}, tuple(aliases), unneeded)


def _text(task: str, m: str) -> str:
    return f"text_encoder{m}.bert" if task == "pretrain" else f"text_encoder{m}"


def _copy(system: Mapping[str, Any], m: str, form: Mapping[str, Any]) -> list[Row]:
    """What has a momentum copy: everything but the matching head and the temperature."""
    task, txt, text = form["task"], system["txt"], _text(form["task"], m)
    made = [*rows.timm_vit(f"visual_encoder{m}", "img", system["img"])]
    made += rows.bert_embeddings(f"{text}.embeddings", "txt", bool(form["types"]))
    if task in PAIRS:
        made += rows.bert_layers(f"{text}.encoder", "txt", txt["cross_from"], txt["cross_from"])
        made += _twin(f"{text}.encoder", form["depth"], txt["cross_from"])
    else:
        made += rows.bert_layers(f"{text}.encoder", "txt", form["depth"], txt["cross_from"])
    if task in ("pretrain", "retrieval"):
        made += rows.linear(f"vision_proj{m}", "img_proj") + rows.linear(f"text_proj{m}", "txt_proj")
    if task == "pretrain":
        made += rows.bert_head(f"text_encoder{m}.cls.predictions", "txt")
    if task == "vqa":
        made += rows.bert_embeddings(f"text_decoder{m}.bert.embeddings", "dec", bool(form["types"]))
        made += rows.bert_layers(f"text_decoder{m}.bert.encoder", "dec", form["decoder"], 0)
        made += rows.bert_head(f"text_decoder{m}.cls.predictions", "dec")
    if task in ("nlvr2", "ve"):
        made += rows.linear(f"cls_head{m}.0", "fc1") + rows.linear(f"cls_head{m}.2", "fc2")
    return made


def _queue(size: int, numbered: bool) -> list[Row]:
    made = [
        Row("image_queue", "past/img", LINEAR, "queue"),
        Row("text_queue", "past/txt", LINEAR, "queue"),
        Row("queue_ptr", "past/pointer", ONE_VALUE, "queue", "int64"),
    ]
    return [*made, Row("idx_queue", "past/ids", Reshape((1, size), (size,)), "queue", "int64")] if numbered else made


def _twin(published: str, depth: int, first: int) -> list[Row]:
    """The layers in pairs; the keys and values of a pair are stored with both of its layers."""
    made: list[Row] = []
    for i in range(depth - first):
        old, new = f"{published}.layer.{first + i}", f"twin/block_{i}"
        made += rows.bert_attention(f"{old}.attention", new, "attn", "norm1") + rows.bert_mlp(old, new)
        made += rows.linear(f"{old}.crossattention.self.query", f"{new}/cross/q")
        made += rows.linear(f"{old}.crossattention.output.dense", f"{new}/cross/out")
        made += rows.norm(f"{old}.crossattention.output.LayerNorm", f"{new}/norm_cross")
        if i % 2 == 0:
            for part in ("key", "value"):
                made += rows.linear(f"{old}.crossattention.self.{part}", f"twin/{part[0]}_{i // 2}")
    return made


def _twin_aliases(published: str, depth: int, first: int) -> list[Alias]:
    made = []
    for i in range(first + 1, depth, 2):
        for part in ("key", "value"):
            for leaf in ("weight", "bias"):
                one, two = (f"{published}.layer.{n}.crossattention.self.{part}.{leaf}" for n in (i - 1, i))
                made.append(Alias(two, one, "the layers of a pair share it"))
    return made


FAMILY = Family((LAYOUT,), _recognise, _table, _target)
