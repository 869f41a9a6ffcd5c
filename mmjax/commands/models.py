"""Where weights and systems meet: any checkpoint, published or mmjax's own, as a system with its variables."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax import systems
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.data.tokenizers import ClipBPE, Tokenizer, load_tokenizer
from mmjax.systems import base
from mmjax.train import checkpoint
from mmjax.weights import surgery
from mmjax.weights.transforms import Shape

ORIGIN = "origin"  # in the config of an mmjax checkpoint: what the published one said besides its parameters


CLIP_VOCAB = 49_408
OPENAI_SPECIALS = ("<|startoftext|>", "<|endoftext|>")  # OpenAI's and Hugging Face's spelling


class Model(NamedTuple):
    """A checkpoint of any layout.

    Attributes:
      system: mapping for `systems.build`, sizes spelled out.
      variables: numpy arrays by collection.
      layout: "mmjax" or the published layout.
      origin: the published checkpoint that the variables come from unchanged, if they do.
      tokenizer: the folder of its tokenizer, if it has one.
      config: the config of the training run, if it comes from one.
      account: what came from where, in words.
    """

    system: dict[str, Any]
    variables: dict[str, Any]
    layout: str
    origin: surgery.Origin | None
    tokenizer: pathlib.Path | None
    config: dict[str, Any] | None
    account: str


def spelled_out(system: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with `size` replaced by the published sizes that it names.

    Raises:
      UserError: no such size.
    """
    system = base.plain(system)
    size = system.pop("size", None)
    if size is None:
        return system
    sizes = systems.SIZES[system["name"]]
    base.check_choice(f"system {system['name']}: size", size, sizes)
    return base.override(sizes[size], system)


def shapes(system: Mapping[str, Any]) -> dict[str, Shape]:
    """Paths and shapes of a system's variables, blocks unrolled: "params/img/cls" -> (768,). Computes nothing."""
    towers = {key: {k: v for k, v in system[key].items() if k != "scan"} for key in ("img", "txt")}
    plain = {"scan": False, "dtype": "float32", "loss_form": "plain", "loss_block": None}  # no mesh is needed
    model = systems.build({**system, **towers, **plain})
    size, length = system["img"]["image_size"], system["txt"]["length"]
    batch = {
        "image": jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
        "ids": jax.ShapeDtypeStruct((1, length), jnp.int32),
        "valid": jax.ShapeDtypeStruct((1, length), jnp.bool_),
    }
    made = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(nn.unbox(made)).items()}


def is_mmjax(path: pathlib.Path) -> bool:
    """Whether a path is a checkpoint (or a run's work directory) of mmjax."""
    return any((folder / checkpoint.DESCRIPTION).is_file() for folder in (path, path / "checkpoints", path.parent))


def load(path: str | pathlib.Path, *, image_size: int | None = None, step: int | None = None) -> Model:
    """Reads a checkpoint of any layout.

    Args:
      path: a folder or, for published weights, a file.
      image_size: resize the positions for images of this size.
      step: of an mmjax checkpoint; the last one if None.

    Raises:
      UserError: see `weights.surgery.load` and `train.checkpoint.load_model`.
    """
    path = pathlib.Path(path)
    if not is_mmjax(path):
        if step is not None:
            raise UserError(f"{path} is no checkpoint of mmjax and has no steps, so step {step} means nothing")
        loaded = surgery.load(path, shapes, image_size=image_size)
        account = loaded.account.summary()
        return Model(loaded.system, loaded.variables, loaded.origin.layout, loaded.origin, None, None, account)
    system, variables, tokenizer, config = checkpoint.load_model(path, step)
    system = spelled_out(system)
    if image_size is not None:
        system, variables = surgery.resize_positions(system, variables, image_size)
    stored = (config or {}).get(ORIGIN)
    origin = surgery.Origin(**stored) if stored else None
    account = f"{trees.count(variables['params']):,} parameters of an mmjax checkpoint"
    return Model(system, variables, "mmjax", origin, tokenizer, config, account)


def save(model: Model, layout: str, directory: pathlib.Path) -> None:
    """Writes a model in a layout.

    Args:
      model: as `load` returns it.
      layout: "mmjax" or a published layout.
      directory: made if missing.

    Raises:
      UserError: the layout cannot hold the model.
    """
    tokenizer = tokenizer_of(model)
    if layout == "mmjax":
        origin = {ORIGIN: model.origin._asdict()} if model.origin else {}
        config = {**(model.config or {}), **origin}
        checkpoint.save_model(directory, model.system, model.variables, tokenizer=tokenizer, config=config or None)
        return
    surgery.export(
        model.variables,
        model.system,
        layout,
        directory,
        origin=model.origin,
        eos_id=None if tokenizer is None else tokenizer.eos_id,
    )


def tokenizer_of(model: Model) -> Tokenizer | None:
    """The checkpoint's tokenizer; CLIP's own for a published model of its vocabulary."""
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    if model.layout == "mmjax" or model.system["txt"]["vocab"] != CLIP_VOCAB:
        return None
    return ClipBPE() if model.layout == "open_clip" else ClipBPE(specials=OPENAI_SPECIALS)
