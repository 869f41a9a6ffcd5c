"""From a config to what training reads: tokenizer, pipeline, evaluators, weights to begin with."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import systems
from mmjax.checks import check_data
from mmjax.commands import models
from mmjax.commands.left_out import tell
from mmjax.core import sharding as shd
from mmjax.core.config import check_keys
from mmjax.core.errors import UserError
from mmjax.data import augment, ledger, mixture, tasks
from mmjax.data import text as texts
from mmjax.data.chat_prompts import Asker
from mmjax.data.chat_task import Chats, Sight
from mmjax.data.choices import choose
from mmjax.data.conversations import texts_of
from mmjax.data.example import BadExample
from mmjax.data.image import Preprocess
from mmjax.data.load import usable
from mmjax.data.pipeline import Pipeline, derive
from mmjax.data.prefetch import DevicePrefetch, prefetch_to_device
from mmjax.data.sources import open_source
from mmjax.data.task import Task
from mmjax.data.tokenizers import TRAINABLE, SentencePiece, Tokenizer, WordPiece, load_tokenizer, open_tokenizer
from mmjax.data.tokenizers.wordpiece import DEC, ENC
from mmjax.decoders.settings import Settings
from mmjax.evals.base import Evaluator, Tools
from mmjax.evals.build import build_evaluator
from mmjax.nn.transformer import BlockSpec
from mmjax.systems import language

# config["tokenizer"]: `spec` (what open_tokenizer takes), or `train_on`, a source, with `vocab_size` and the `kind`
# that is trained on its texts; and options of each kind.
_TRAIN_OPTIONS = {
    SentencePiece.kind: ("model_type", "normalization", "symbols"),
    WordPiece.kind: ("lower", "added", "clean", "most_words"),
}
TOKENIZER_KEYS = ("spec", "kind", "train_on", "vocab_size", *(key for keys in _TRAIN_OPTIONS.values() for key in keys))

DATA_KEYS = {
    "train": "source spec, or {spec: weight}",
    "alone": "{'image': …, 'text': …}: sources of images and of texts alone (data/mixture.py)",
    "batch_size": "over all devices",
    "task": "tasks.from_config's mapping: what an example is; pairs of an image and a text unless told",
    "image": "augment.from_config's mapping, without size",
    "text": "text.from_config's mapping",
    "text_length": "tokens per text, begin and end included; default: as many as the system has positions "
    "(a decoder: 2,048, those of pictures included)",
    "text_buckets": "lengths to the smallest of which a batch's texts are cut: less work, the same loss",
    "eval_image": "fields of image.Preprocess, without size",
    "workers": "processes that make batches",
    "read_ahead": "batches made ahead, per worker",
    "max_bad": "share of the examples seen that may be unusable (ledger.jsonl says which); more stop the run",
}


def make_tokenizer(config: Mapping[str, Any], saved: pathlib.Path | None) -> Tokenizer:
    """The tokenizer that a run saved before (None: it saved none), or else the one that the config describes.

    Raises:
      UserError: unknown keys, or neither `spec` nor `train_on`.
    """
    check_keys("config.tokenizer", config, TOKENIZER_KEYS)
    if saved is not None and saved.is_dir():
        return load_tokenizer(saved)
    if config.get("spec"):
        return open_tokenizer(config["spec"], **{k: config[k] for k in _TRAIN_OPTIONS[WordPiece.kind] if k in config})
    if not config.get("train_on") or not config.get("vocab_size"):
        raise UserError("config.tokenizer needs `spec`, or `train_on` (a source), `vocab_size` and `kind` to train one")
    kind = choose("config.tokenizer.kind", config.get("kind", SentencePiece.kind), TRAINABLE)
    check_keys(
        f"config.tokenizer of the kind {kind}",
        config,
        ("spec", "kind", "train_on", "vocab_size", *_TRAIN_OPTIONS[kind]),
    )
    source = open_source(config["train_on"])
    lines = (line for example in usable(source) for line in texts_of(example))
    options = {k: config[k] for k in _TRAIN_OPTIONS[kind] if k in config}
    return TRAINABLE[kind].train(lines, config["vocab_size"], **options)


def check_vocabulary(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Raises UserError if the tokenizer has ids that the system's embedding lacks: they would read other rows."""
    if not _has_texts(config):
        return
    words = "llm" if _has_decoder(config) else "txt"
    vocab = int(_system_field(config, "txt", "vocab")) if words == "txt" else 0  # it says what sizes there are
    system: Any = systems.build(config["system"])
    vocab = vocab or int(system.llm.vocab)
    if tokenizer.vocab_size > vocab:
        raise UserError(f"config.system.{words}.vocab = {vocab}, but the tokenizer has {tokenizer.vocab_size} ids")
    for key, token in {"dec_id": DEC, "enc_id": ENC}.items():
        given = config["system"].get(key)
        if given is not None and isinstance(tokenizer, WordPiece) and tokenizer.special(token) != given:
            raise UserError(f"config.system.{key} = {given}, but the tokenizer's {token} is {tokenizer.special(token)}")
    mask_id, mask = getattr(system, "mask_id", None), getattr(tokenizer, "mask_id", None)
    if mask_id is not None and "mlm" in getattr(system, "tasks", ()) and mask_id != mask:
        raise UserError(f"config.system.mask_id = {mask_id}, but the tokenizer's token for hidden words is {mask}")


def text_length(config: Mapping[str, Any], overrides: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Tokens per text: `config.data.text_length` (or a stage's), or as many as the system has positions.

    A decoder's do not end: its rows have language.LENGTH tokens unless told, pictures included.
    """
    length = {**(config.get("data") or {}), **overrides}.get("text_length")
    most = positions_length(config)
    if _has_decoder(config):
        if length is not None and length < 2:
            raise UserError(f"config.data.text_length = {length}; valid: 2 or more tokens, those of pictures included")
    elif length is not None and not 1 <= length <= most:
        raise UserError(f"config.data.text_length = {length}; valid: 1 to {most}, the positions of config.system.txt")
    return most if length is None else length


def positions_length(config: Mapping[str, Any]) -> int:
    """Tokens that a text of the system may have: begin and end alone, where it reads none; a decoder's are free."""
    if not _has_texts(config):
        return 2
    if _has_decoder(config):
        return language.LENGTH
    return int(_system_field(config, "txt", "length"))


def image_size(config: Mapping[str, Any]) -> int:
    """Side of the images in pixels: the system's; 1 where it sees none."""
    if config["system"].get("name") in systems.WITHOUT_IMAGES:
        return 1
    return int(_system_field(config, "img", "image_size"))


def sight(config: Mapping[str, Any]) -> Sight | None:
    """What a system with a decoder makes of a picture; None: it reads texts alone."""
    system: Any = systems.build(config["system"])
    if not hasattr(system, "view_states"):
        return None
    side = system.view_side if system.view_states == system.view_side**2 else 0
    return Sight(system.img.image_size, system.view_states, system.newline, side)


def _task(config: Mapping[str, Any], given: Mapping[str, Any] | None) -> Task:
    """The task of config.data.task.

    Raises:
      UserError: an unknown option; conversations for a system that reads none, or something else for one that does.
    """
    name, decoder = config["system"].get("name"), _has_decoder(config)
    if decoder != ((given or {}).get("kind") == "chat"):
        need = "conversations: give {'kind': 'chat', 'template': …}" if decoder else (
            f"no conversations; the kind 'chat' is for the systems {', '.join(systems.DECODERS)}"
        )  # fmt: skip
        raise UserError(f"config.data.task = {dict(given or {})}: the system {name} reads {need}")
    made = tasks.from_config(given, sight(config) if decoder else None)
    if getattr(made, "modality", "") == "all" and name not in systems.MIXED:
        raise UserError(
            f"config.data.task.modality = 'all': the system {name} learns of one kind at a time (pair, image or text); "
            f"all at once: {', '.join(systems.MIXED)}"
        )
    return made


def _has_decoder(config: Mapping[str, Any]) -> bool:
    return config["system"].get("name") in systems.DECODERS


def _has_texts(config: Mapping[str, Any]) -> bool:
    return config["system"].get("name") not in systems.WITHOUT_TEXT


def _system_field(config: Mapping[str, Any], tower: str, field: str, default: Any = None) -> Any:
    system = config["system"]
    if system.get("size") is not None and system.get("name") in systems.SIZES:
        choose("size of config.system", system["size"], systems.SIZES[system["name"]])
    base = systems.SIZES.get(system.get("name"), {}).get(system.get("size"), {})
    value = system.get(tower, {}).get(field, base.get(tower, {}).get(field, default))
    if value is None:
        raise UserError(f"config.system.{tower}.{field} is not set, and no size gives it")
    return value


def data_of(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """config["data"] with a stage's changes.

    Raises:
      UserError: an unknown key, or no training source.
    """
    data = data_settings(config, overrides)
    if not data.get("train"):
        raise UserError("config.data.train is empty: give a source, e.g. --config.data.train=jsonl:pairs.jsonl")
    data["max_bad"] = ledger.check_max_bad(data.get("max_bad", ledger.MAX_BAD))
    return data


def data_settings(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """config["data"] with a stage's changes, which need not name a source.

    Raises:
      UserError: an unknown key, or a value of another type.
    """
    data = {**config["data"], **overrides}
    check_keys("config.data", data, DATA_KEYS)
    check_data(data)
    own = mixture.own_sources(data).get((data.get("task") or {}).get("modality", ""))
    return data if own is None else {**data, **{key: value for key, value in own.items() if key != "share"}}


def make_pipeline(
    config: Mapping[str, Any], overrides: Mapping[str, Any], tokenizer: Tokenizer, mesh: Mesh | None = None
) -> Pipeline | mixture.Mixture:
    """The training batches; `overrides` are a stage's changes to config["data"].

    With a mesh, the rows of them that this process's devices hold.
    """
    data = data_of(config, overrides)
    buckets = tuple(data.get("text_buckets") or ())
    task = _task(config, data.get("task"))
    if (
        buckets
        and not _has_decoder(config)
        and (
            not _system_field(config, "txt", "causal", True)
            or _system_field(config, "txt", "pool", "end") not in ("end", "cls")
            or _system_field(config, "txt", "cls_shift", False)
        )
    ):
        raise UserError(
            "config.data.text_buckets: the text tower of config.system reads padding (it is not causal, or its pool is "
            "'last', or has cls_shift), so that cutting it off would change the features; leave text_buckets out"
        )

    def build(train: Any, task: Task, rows: int, length: int, seed: int, buckets: tuple[int, ...]) -> Pipeline:
        return Pipeline(
            {spec: open_source(spec) for spec in ([train] if isinstance(train, str) else train)},
            weights=dict(train) if isinstance(train, Mapping) else None,
            tokenizer=tokenizer,
            length=length,
            image=augment.from_config({**data.get("image", {}), "size": image_size(config)}),
            text=texts.from_config(data.get("text", {})),
            task=task,
            batch_size=rows,
            seed=seed,
            rows=None if mesh is None else shd.local_rows(mesh, rows),
            text_buckets=buckets,
            workers=data.get("workers", 0),
            read_ahead=data.get("read_ahead", 2),
        )

    length, size, seed = text_length(config, data), data["batch_size"], config["seed"]
    pairs = build(data["train"], task, size, length, seed, buckets)
    alone: dict[str, Pipeline] = {}
    for kind, own in _alone(data, task).items():
        rows = mixture.rows_of(kind, own, size)
        if mesh is not None:
            shd.check_batch_size(rows, mesh)
        one: Any = dataclasses.replace(cast(Any, task), modality=kind)
        alone[kind] = build(own["train"], one, rows, own.get("text_length", length), derive(seed, kind), ())
    return mixture.Mixture(pairs, alone) if alone else pairs


def _alone(data: Mapping[str, Any], task: Task) -> dict[str, dict[str, Any]]:
    """What a batch has beside its pairs: kind -> options of its source."""
    return mixture.own_sources(data) if getattr(task, "modality", "") == "all" else {}


def open_batches(pipeline: Pipeline | mixture.Mixture, sharding: Any, state: Any = None) -> DevicePrefetch:
    """Device batches, from where `state` (of a checkpoint) left them."""
    batches = iter(pipeline)
    if state is not None:
        batches.set_state(state)
    apart = getattr(pipeline, "apart", {})
    return prefetch_to_device(batches, sharding, rows=pipeline.rows, batch_size=pipeline.batch_size, apart=apart)


def abstract_batch(config: Mapping[str, Any], mesh: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the smallest batch that the mesh can split; enough to initialise a system."""
    rows = int(np.prod([mesh.shape[axis] for axis in shd.BATCH_AXES]))
    system: Any = systems.build(config["system"])
    return system.example(rows, text_length(config))


def stage_batch(config: Mapping[str, Any], overrides: Mapping[str, Any], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of so many rows, as the stage with these changes to config["data"] reads it.

    Raises:
      UserError: see `text_length` and `tasks.from_config`.
    """
    system: Any = systems.build(config["system"])
    data = data_settings(config, overrides)
    task = _task(config, data.get("task"))
    made = system.example(rows, text_length(config, data))
    if isinstance(task, Chats) and task.images:
        picture = made["image"]
        made["image"] = jax.ShapeDtypeStruct((rows, task.most_views, *picture.shape[2:]), picture.dtype)
    if isinstance(task, Chats) and task.pack > 1:
        made["sample"] = made["ids"]
    if getattr(task, "whole_words", False):
        made["begins"] = made["valid"]
    for kind, own in _alone(data, task).items():
        beside = system.example(mixture.rows_of(kind, own, rows), own.get("text_length", text_length(config, data)))
        beside["begins"] = beside["valid"]
        made |= {mixture.PREFIX + key: beside[key] for key in mixture.ALONE[kind] if key in made}
    return {key: shape for key, shape in made.items() if key not in getattr(task, "without", ())}


def make_tools(config: Mapping[str, Any], tokenizer: Tokenizer) -> Tools:
    """What evaluators need of data and tokenizer."""
    length = text_length(config)
    settings = config["data"].get("eval_image") or {}
    check_keys("config.data.eval_image", settings, tuple(f.name for f in dataclasses.fields(Preprocess)))
    preprocess: Callable = augment.from_config({**settings, "preset": "eval", "size": image_size(config)})
    ask = None
    if _has_decoder(config):
        given = config["data"].get("task")
        task = _task(config, given) if given else None
        ask = Asker(task if isinstance(task, Chats) else None, tokenizer, preprocess, length)
    return Tools(
        open_source,
        preprocess,
        functools.partial(tokenizer.batch, length=length),
        unusable=(BadExample,),
        decode=functools.partial(written_text, tokenizer),
        settings=generation_settings,
        ask=ask,
    )


def written_text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """The text of ids that a model wrote; an id that its vocabulary has and the tokenizer has not is shown as U+FFFD.

    Vocabularies are often padded to a round number: a model that has learned little may write one of those rows.
    """
    known = ids < tokenizer.vocab_size
    if known.all():
        return tokenizer.decode(ids)
    parts = np.split(ids, np.flatnonzero(~known))
    texts = [tokenizer.decode(part[part < tokenizer.vocab_size]).strip() for part in parts]
    return " \ufffd ".join(texts).strip()


def generation_settings(options: Mapping[str, Any]) -> Settings:
    """Settings of generation from a config's mapping.

    Raises:
      UserError: an unknown or impossible setting.
    """
    check_keys("settings of generation", options, tuple(field.name for field in dataclasses.fields(Settings)))
    given: dict[str, Any] = {key: tuple(value) if key == "end_ids" else value for key, value in options.items()}
    return Settings(**given)


def make_evaluators(config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Evaluator]:
    """The evaluators that the config names; process 0 says which examples they had to leave out."""
    tools = make_tools(config, tokenizer)
    made = {name: build_evaluator(name, spec, tools) for name, spec in config.get("evals", {}).items()}
    if jax.process_index() == 0:
        tell(tools.left_out)
    return made


# Fields of a module that change how it runs or trains, not what it computes in evaluation.
# Shapes tell these already; some may be left to a default, so that equal systems say them differently.
_SHAPES = {"cross_from", "lm_head", "types", "mlp_dim", "head_dim", "vocab", "length", "width", "depth", "layers",
           "patch_stride"}  # fmt: skip
_FREE_FIELDS = {
    "name",
    "parent",
    "dtype",
    "scan",
    "remat",
    "attention",
    "dropout",
    "attn_dropout",
    "drop_path",
    "patch_drop",
    "image_size",
}
# How weights begin (functions are equal to none but themselves), and adapters, which begin as nothing.
_FREE_FIELDS |= {"inits", "init", "patch_init", "pos_init", "init_std", "lora"}
_FREE_SYSTEM = {*_FREE_FIELDS, "loss", "loss_form", "loss_block", "loss_chunk", "scale_init", "scale_max", "bias_init"}
# CoCa's: weights and targets of its losses, what a caption begins and ends with, a classifier over the same features.
_FREE_SYSTEM |= {"con_weight", "cap_weight", "ignore_id", "begin_id", "end_ids"}
_FREE_SYSTEM |= {"classes", "class_of", "class_loss", "images"}
# ALBEF's: what its losses weigh and draw.
_FREE_SYSTEM |= {"queue", "alpha", "alpha_steps", "temperature", "bounds", "mask_id", "mask_rate", "tasks", "by_id"}
_FREE_SYSTEM |= {"hard_negatives"}
# BLIP's: what is learned, and how.
_FREE_SYSTEM |= {"tasks", "lead", "smoothing", "floor", "taught_negatives", "learn_temperature"}
# BEiT-3's and VLMo's: what is predicted of which share.
_FREE_SYSTEM |= {"target", "codes", "rates", "answers", "mlm_weight"}


def check_same_computation(
    path: str, found: Mapping[str, Any], wanted: Mapping[str, Any], parts: Collection[str] = ("", "img", "txt")
) -> None:
    """Raises UserError where two systems take equal weights to different results: activation, eps, heads, pixels …

    Args:
      path: of the checkpoint, for the message.
      found: the checkpoint's system mapping.
      wanted: the config's.
      parts: what of them is compared: towers such as "img" and "txt", or "" for everything.
    """
    plain = {"dtype": "float32", "scan": False}
    theirs, ours = (systems.build({**models.spelled_out(each), **plain}) for each in (found, wanted))
    pairs: list[tuple[str, Any, Any, set[str]]] = [("", theirs, ours, _FREE_SYSTEM)] if "" in parts else []
    # Where a system of another kind reads a tower's states is no property of the tower.
    read = set[str]() if type(theirs) is type(ours) else {"taps"}
    modules = [field.name for field in dataclasses.fields(ours) if isinstance(getattr(ours, field.name), nn.Module)]
    towers = [tower for tower in modules if tower in parts or "" in parts]
    free_fields = _FREE_FIELDS | read
    pairs += [(f"{tower}.", getattr(theirs, tower, None), getattr(ours, tower), free_fields) for tower in towers]
    differ = []
    for prefix, one, other, free in pairs:
        if type(one) is not type(other):
            differ.append(f"{prefix}kind: {type(one).__name__} there, {type(other).__name__} here")
            continue
        differ += _differences(prefix, one, other, free | _SHAPES)
    if differ:
        raise UserError(
            f"config.init {path} is of another system: {'; '.join(differ)}; set config.system to what is there"
        )


def _differences(prefix: str, one: Any, other: Any, free: Collection[str]) -> Iterator[str]:
    """What two modules of one kind (or two blocks' specs) say differently, sub-modules and the `free` fields apart."""
    for field in dataclasses.fields(one):
        there, here = getattr(one, field.name), getattr(other, field.name)
        unsaid = field.name == "heads" and None in (there, here)  # a ResNet's default
        if isinstance(there, BlockSpec) and isinstance(here, BlockSpec):
            yield from _differences(f"{prefix}{field.name}.", there, here, free)
        elif field.name not in free and not unsaid and not isinstance(there, nn.Module) and there != here:
            yield f"{prefix}{field.name}: {there!r} there, {here!r} here"
