"""Published checkpoints into systems, and systems into published checkpoints.

A checkpoint is a folder with its publisher's configuration and weights, or an OpenAI weight file alone. Whoever calls
gives the shapes of our tree: this folder knows names and layouts, not models.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import unstack_blocks
from mmjax.weights import clip_config, files, positions
from mmjax.weights.clip import clip_table
from mmjax.weights.layout import Account, Table, float32
from mmjax.weights.siglip import is_siglip
from mmjax.weights.transforms import Shape

CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR = "config.json", "open_clip_config.json", "preprocessor_config.json"
PIL_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Shapes = Callable[[Mapping[str, Any]], Mapping[str, Shape]]


class Origin(NamedTuple):
    """What a checkpoint says besides its parameters, so that it can be written again bit for bit.

    Attributes:
      layout: "hf", "openai" or "open_clip".
      config: its configuration.
      custom_text: open_clip: the text tower's keys begin with `text.`.
      one_value: scale and bias are stored as `[1]`.
      buffers: see `Account`.
      dtypes: our path -> dtype in which it was stored, where that is not float32.
      resample: how pictures are resized, "bicubic" or "bilinear".
    """

    layout: str
    config: dict[str, Any]
    custom_text: bool = False
    one_value: bool = False
    buffers: Mapping[str, Any] = {}
    dtypes: Mapping[str, str] = {}
    resample: str = "bicubic"

    def table(self, system: Mapping[str, Any]) -> Table:
        """The table of this checkpoint's layout."""
        return clip_table(system, self.layout, custom_text=self.custom_text, one_value=self.one_value)


class Loaded(NamedTuple):
    """A checkpoint as `load` returns it.

    Attributes:
      system: mapping for `systems.build`, sizes spelled out.
      variables: {"params": …} and, for a ResNet, "batch_stats"; float32.
      account: what came from where; `print(account.summary())`.
      origin: for `export`, and for an mmjax checkpoint's config.
    """

    system: dict[str, Any]
    variables: dict[str, Any]
    account: Account
    origin: Origin


def load(
    source: str | pathlib.Path,
    shapes: Shapes,
    *,
    layout: str | None = None,
    image_size: int | None = None,
    text_length: int | None = None,
    place: Callable[[str, np.ndarray], Any] | None = None,
    only: Callable[[str], bool] | None = None,
) -> Loaded:
    """Reads a published checkpoint; every tensor of it is loaded, or named in the account with the reason why not.

    Args:
      source: a folder, or a weight file (with its config beside it, or OpenAI's, which needs none).
      shapes: from a system mapping to the shapes of its variables, "params/img/cls" -> (768,).
      layout: insist on this layout instead of the detected one.
      image_size: resize the positions for images of this size, as the publisher's code does.
      text_length: resize the positions for texts of this many tokens, as open_clip does.
      place: called with path and array (a view, in the stored dtype) as each is read, to put it on its devices at once
        as float32; default: numpy arrays, float32.
      only: which of our paths to read, "params/img/cls"; default: all. Every tensor is accounted for in any case.

    Raises:
      UserError: no such checkpoint, an unknown layout or configuration, or tensors that do not fit; the message lists
        every missing, unknown and misshapen one.
    """
    source = pathlib.Path(source)
    tensors, system, origin, where = _open(source)
    config, found = origin.config, origin.layout
    if layout not in (None, found):
        raise UserError(f"{where} is of the layout {found!r}, not {layout!r}")
    resized = positions.resized_system(system, image_size, text_length)
    grow, notes = positions.resizing(system, resized, found)
    notes += clip_config.unused(config, found)

    def finish(path: str, array: np.ndarray) -> Any:
        array = grow(path, array)
        return float32(array) if place is None else place(path, array)

    flat, account = origin.table(system).read(tensors, shapes(system), str(source), finish, only)
    origin = origin._replace(
        buffers=account.buffers, dtypes={path: kind for path, kind in account.stored.items() if kind != "float32"}
    )
    return Loaded(resized, trees.unflatten(flat), dataclasses.replace(account, notes=notes), origin)


def read_system(source: str | pathlib.Path) -> tuple[dict[str, Any], str]:
    """(system mapping, layout) of a published checkpoint; no tensor is read.

    Raises:
      UserError: see `load`.
    """
    _, system, origin, _ = _open(pathlib.Path(source))
    return system, origin.layout


def _open(source: pathlib.Path) -> tuple[files.Tensors, dict[str, Any], Origin, str]:
    """The tensors, the system, what the checkpoint says besides, and the name of its configuration."""
    tensors = files.open_tensors(source)
    config, where = _read_config(source, tensors)
    layout = clip_config.detect_layout(config, where)
    system = clip_config.system_from(config, layout, where)
    origin = _origin(layout, config, tensors)._replace(resample=_resample(source, layout, config))
    return tensors, system | _pixels(source, system), origin, where


def _read_config(source: pathlib.Path, tensors: files.Tensors) -> tuple[dict[str, Any], str]:
    """The configuration beside the weights, or (OpenAI's archives hold none) what their shapes say."""
    folder = source if source.is_dir() else source.parent
    names = (CONFIG, OPEN_CLIP_CONFIG)  # some folders hold both, with weights of both layouts
    if files.find_weights(source).name in files.OPEN_CLIP_WEIGHTS:
        names = (OPEN_CLIP_CONFIG, CONFIG)
    for name in names:
        if (folder / name).is_file():
            return files.read_json(folder / name), str(folder / name)
    if "visual.conv1.weight" in tensors.keys() and "positional_embedding" in tensors.keys():  # noqa: SIM118
        return clip_config.infer_openai({key: tensors.shape(key) for key in tensors.keys()}), str(source)  # noqa: SIM118
    raise UserError(f"{folder / CONFIG} is missing, and the weights are not in OpenAI's layout, which needs none")


def _origin(layout: str, config: dict[str, Any], tensors: files.Tensors) -> Origin:
    """The layout, with what of open_clip's only the tensors tell."""
    if layout != "open_clip":
        return Origin(layout, config)
    keys = set(tensors.keys())
    one_value = "logit_scale" in keys and tensors.shape("logit_scale") == (1,)
    return Origin(layout, config, any(key.startswith("text.") for key in keys), one_value)


def _pixels(source: pathlib.Path, system: Mapping[str, Any]) -> dict[str, list[float]]:
    """mean and std of a Hugging Face preprocessor, where they are not the system's."""
    path = (source if source.is_dir() else source.parent) / PREPROCESSOR
    settings = files.read_json(path) if path.is_file() else {}
    stored = {"mean": settings.get("image_mean"), "std": settings.get("image_std")}
    usual = {"mean": list(system.get("mean", CLIP_MEAN)), "std": list(system.get("std", CLIP_STD))}
    return {key: value for key, value in stored.items() if value is not None and value != usual[key]}


def _resample(source: pathlib.Path, layout: str, config: Mapping[str, Any]) -> str:
    """How pictures are resized: as the preprocessor or `preprocess_cfg` says; bicubic where nothing does."""
    if layout == "open_clip":  # which takes everything but this one as bicubic
        return "bilinear" if (config.get("preprocess_cfg") or {}).get("interpolation") == "bilinear" else "bicubic"
    path = (source if source.is_dir() else source.parent) / PREPROCESSOR
    number = files.read_json(path).get("resample") if path.is_file() else None
    if number not in (None, *PIL_RESAMPLE.values()):
        raise UserError(f"{path}: resample = {number!r} is not supported; supported: 2 (bilinear), 3 (bicubic)")
    return next((name for name, value in PIL_RESAMPLE.items() if value == number), "bicubic")


# ------------------------------------------------------------------------------------------------- export


def export(
    variables: Mapping[str, Any],
    system: Mapping[str, Any],
    layout: str,
    directory: str | pathlib.Path,
    *,
    origin: Origin | None = None,
    eos_id: int | None = None,
) -> None:
    """Writes a checkpoint folder that the layout's own library loads.

    Args:
      variables: {"params": …, "batch_stats": …}; stacked blocks are unstacked.
      system: its mapping, sizes spelled out.
      layout: "hf", "openai" or "open_clip".
      directory: made if missing.
      origin: where the variables were imported from: its dtypes stay, and in its own layout its keys and config too.
      eos_id: the id that ends a text; None: the largest id of the text.

    Raises:
      UserError: the layout cannot hold this system; the message says why.
    """
    same = origin is not None and origin.layout == layout
    form = {}
    if origin is not None and same and layout == "open_clip":  # what only its keys tell
        form = {"custom_text": origin.custom_text, "one_value": origin.one_value}
    if origin is not None:
        eos_id = _eos_id(origin, system, eos_id)
    config = clip_config.config_from(system, layout, eos_id=eos_id, **form)
    if origin and same and _same_model(origin.config, config, layout):
        config = origin.config
    table = clip_table(system, layout, **form)
    tensors = table.published(flat_variables(variables), origin.dtypes if origin else None)
    tensors |= table.extra(origin.buffers if origin else {}, same)
    resample = origin.resample if origin else "bicubic"
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files.write_safetensors(directory / files.WEIGHTS, tensors)
    files.write_json(directory / CONFIG, config)
    if layout == "hf":
        files.write_json(directory / PREPROCESSOR, _preprocessor(system, resample))
    if layout == "open_clip":  # the name and form that its `local-dir:` reads
        pixels: dict[str, Any] = {"mean": list(system.get("mean", CLIP_MEAN)), "std": list(system.get("std", CLIP_STD))}
        pixels |= {"interpolation": resample, "resize_mode": "squash" if is_siglip(system) else "shortest"}
        model = {**config.get("model_cfg", config)}
        preprocess = {**pixels, **(config.get("preprocess_cfg") or {})}
        files.write_json(directory / OPEN_CLIP_CONFIG, {"model_cfg": model, "preprocess_cfg": preprocess})


def _eos_id(origin: Origin, system: Mapping[str, Any], eos_id: int | None) -> int | None:
    """The id that ends a text of an imported model: what its publisher says, or else what the caller does.

    Where both say "the largest id", and the vocabulary has grown since, it is the largest of the publisher's.
    """
    stored = clip_config.eos_id(origin.config, origin.layout)
    vocab = clip_config.system_from(origin.config, origin.layout, "config")["txt"]["vocab"]
    grown = system["txt"]["vocab"] > vocab
    return stored if stored is not None else vocab - 1 if eos_id is None and grown else eos_id


def flat_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Collections as one flat dictionary, "params/img/cls" -> array, with unrolled blocks."""
    return trees.flatten(unstack_blocks(variables))


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any], layout: str) -> bool:
    """Whether two configurations of a layout describe the same computation."""
    return clip_config.system_from(one, layout, "config") == clip_config.system_from(other, layout, "config")


def _preprocessor(system: Mapping[str, Any], resample: str) -> dict[str, Any]:
    size = system["img"]["image_size"]
    if is_siglip(system):  # squeezed to a square, nothing cut
        return {
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "size": {"height": size, "width": size},
            "resample": PIL_RESAMPLE[resample],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": list(system.get("mean", CLIP_MEAN)),
            "image_std": list(system.get("std", CLIP_STD)),
        }
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": PIL_RESAMPLE[resample],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(system.get("mean", CLIP_MEAN)),
        "image_std": list(system.get("std", CLIP_STD)),
    }
