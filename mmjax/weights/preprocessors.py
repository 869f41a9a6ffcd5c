"""Hugging Face's image preprocessors: how a published folder says that pictures are prepared, and back.

Older versions write `preprocessor_config.json`; newer ones may put the same inside `processor_config.json`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import UserError
from mmjax.weights import files

FILE, PROCESSOR = "preprocessor_config.json", "processor_config.json"
PIL_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, of 0 to 1."""


def read(folder: pathlib.Path) -> tuple[dict[str, Any], pathlib.Path]:
    """(settings, the file that holds them); empty where a folder has neither file."""
    path = folder / FILE
    if path.is_file():
        return files.read_json(path), path
    other = folder / PROCESSOR
    inner = files.read_json(other).get("image_processor") if other.is_file() else None
    return (inner, other) if isinstance(inner, dict) else ({}, path)


def pixels(folder: pathlib.Path, system: Mapping[str, Any]) -> dict[str, list[float]]:
    """mean and std, where they are not the system's."""
    settings, _ = read(folder)
    stored = {"mean": settings.get("image_mean"), "std": settings.get("image_std")}
    usual = {"mean": list(system.get("mean", MEAN)), "std": list(system.get("std", STD))}
    return {key: value for key, value in stored.items() if value is not None and value != usual[key]}


def resample(folder: pathlib.Path) -> str:
    """How pictures are resized; bicubic where nothing says it.

    Raises:
      UserError: in another way than these two.
    """
    settings, path = read(folder)
    number = settings.get("resample")
    if number not in (None, *PIL_RESAMPLE.values()):
        raise UserError(f"{path}: resample = {number!r} is not supported; supported: 2 (bilinear), 3 (bicubic)")
    return next((name for name, value in PIL_RESAMPLE.items() if value == number), "bicubic")


def fit(folder: pathlib.Path) -> str:
    """How LLaVA's pictures become a square: "pad" with the mean colour, "square" (squeezed), or "crop"."""
    settings, _ = read(folder)
    if settings.get("do_pad"):
        return "pad"
    size = settings.get("size")
    squeezed = isinstance(size, Mapping) and size.get("height") is not None and size.get("width") is not None
    return "square" if squeezed or settings.get("do_center_crop") is False else "crop"


def settings_of(kind: str, system: Mapping[str, Any], how: str = "bicubic", fit: str = "square") -> dict[str, Any]:
    """The content of `preprocessor_config.json`.

    Args:
      kind: transformers' class.
      system: whose `img.image_size`, `mean` and `std` these are.
      how: "bicubic" or "bilinear".
      fit: "square", "crop" (the middle of the longer side), or "pad".
    """
    size = system["img"]["image_size"]
    square = {"height": size, "width": size}
    shape: dict[str, Any] = {"size": square} if fit == "square" else {"size": {"shortest_edge": size}}
    shape |= {"do_center_crop": True, "crop_size": square} if fit != "square" else {}
    return {
        "image_processor_type": kind,
        "do_resize": True,
        **shape,
        **({"do_pad": True} if fit == "pad" else {}),
        "resample": PIL_RESAMPLE[how],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(system.get("mean", MEAN)),
        "image_std": list(system.get("std", STD)),
    }


def write(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `preprocessor_config.json`."""
    files.write_json(folder / FILE, dict(settings))


def write_llava(
    folder: pathlib.Path, system: Mapping[str, Any], fit: str, grids: Sequence[Sequence[int]] | None
) -> None:
    """What transformers' processors of LLaVA (`grids` None) and LLaVA-NeXT read, for an image token `<image>`."""
    kind = "Llava" if grids is None else "LlavaNext"
    settings = settings_of(f"{kind}ImageProcessor", system, fit="crop" if grids is not None else fit)
    if grids is None and fit == "square":
        settings |= {"do_center_crop": False}
    write(folder, settings if grids is None else {**settings, "image_grid_pinpoints": [list(pair) for pair in grids]})
    files.write_json(folder / PROCESSOR, {
        "processor_class": f"{kind}Processor",
        "image_token": "<image>",
        "patch_size": system["img"]["patch"],
        "num_additional_image_tokens": 1,  # the class token
        "vision_feature_select_strategy": "full" if system.get("keep_cls") else "default",
    })  # fmt: skip
