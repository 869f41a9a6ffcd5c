"""Tables of positions for images of another size and for texts of another length, as the publishers resize them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.interpolate import bicubic_resize, linear_matrix, relative_resize
from mmjax.weights.layout import float32

VIT, RESNET, TEXT = "params/img/pos", "params/img/attnpool/pos", "params/txt/pos"
RELATIVE = "params/bias/table"  # VLMo's rows of relative positions
DECODER = "params/decoder/pos"
IMAGE = (VIT, RESNET, RELATIVE, DECODER)
TABLES = (*IMAGE, TEXT)
CUT = ("vlmo", "beit3", "bert")  # their tables of text positions are cut, not resized

Resize = Callable[[np.ndarray], np.ndarray]


def resized_system(
    system: Mapping[str, Any], image_size: int | None = None, text_length: int | None = None
) -> dict[str, Any]:
    """The system for images of another size (pixels) and texts of another length (tokens); None: its own.

    Raises:
      UserError: the size is no multiple of what one position covers, or the length is below 1.
    """
    new = dict(system)
    for size, part in ((image_size, "img"), (text_length, "txt")):
        if size is not None and part not in system:
            raise UserError(f"the system {system.get('name')!r} has no {part!r}, so that {size} positions mean nothing")
    if image_size is not None and image_size != system["img"]["image_size"]:
        step = _step(system)
        if image_size < step or image_size % step:
            raise UserError(f"image size {image_size} is not a multiple of {step} pixels, which one position covers")
        new["img"] = {**system["img"], "image_size": image_size}
    if "txt" in system and text_length not in (None, system["txt"]["length"]):
        if text_length < 1:
            raise UserError(f"text length {text_length}: at least 1 token")
        new["txt"] = {**system["txt"], "length": text_length}
    return new


def resize(
    system: Mapping[str, Any], variables: Mapping[str, Any], image_size: int | None, text_length: int | None
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(system, variables, lines for the account) for images and texts of other sizes, by open_clip's rules.

    Args:
      system: mapping, sizes spelled out.
      variables: numpy arrays by collection.
      image_size, text_length: see `resized_system`.

    Raises:
      UserError: see `resized_system`.
    """
    new = resized_system(system, image_size, text_length)
    grow, notes = resizing(system, new, "mmjax")
    flat = trees.flatten(variables)
    return new, trees.unflatten({path: grow(path, array) for path, array in flat.items()}), notes


def resizing(
    old: Mapping[str, Any], new: Mapping[str, Any], layout: str
) -> tuple[Callable[[str, np.ndarray], np.ndarray], tuple[str, ...]]:
    """The function (path, array) -> array that resizes the tables of positions, and lines for the account."""
    decoder = _image(old, new, layout, DECODER) if "decoder" in old else None  # VQ-KD's, of the same grid
    found = [each for each in (_image(old, new, layout), decoder, _text(old, new)) if each is not None]
    tables = {path: function for path, function, _ in found}
    tables |= {path.replace("params/", "teacher/"): function for path, function in tables.items()}
    return lambda path, array: tables[path](array) if path in tables else array, tuple(note for *_, note in found)


def _step(system: Mapping[str, Any]) -> int:
    """Pixels that one position covers."""
    return 32 if system["img"].get("kind") == "resnet" else system["img"]["patch"]


def _image(
    old: Mapping[str, Any], new: Mapping[str, Any], layout: str, vit: str = VIT
) -> tuple[str, Resize, str] | None:
    """open_clip interpolates with antialias, OpenAI's models too, which it resizes; everybody else without."""
    if "img" not in old:
        return None
    before, after = (each["img"]["image_size"] // _step(each) for each in (old, new))
    if before == after:
        return None
    if old["name"] == "vlmo" and old.get("positions", "relative") == "relative":
        note = f"{RELATIVE}: grid {before}x{before} -> {after}x{after}, cubic spline over growing distances (BEiT)"
        return RELATIVE, lambda table: relative_resize(float32(table), before, after), note
    path, extra = RESNET if old["img"].get("kind") == "resnet" else vit, int(old["img"].get("cls", True))
    extra += 2 * (old["name"] == "beit3")  # rows that nobody reads
    antialias = old["name"] in ("clip", "coca") and layout != "hf"

    def resize(table: np.ndarray) -> np.ndarray:
        # [P, D] -> [Y, X, D]; row 0 is the class (or mean) token's, where there is one
        table = float32(table)
        grid = table[extra:].reshape(before, before, -1)
        grown = bicubic_resize(grid, (after, after), antialias=antialias)
        return np.concatenate([table[:extra], np.asarray(grown).reshape(after * after, -1)])

    rule = "bicubic with antialias (open_clip)" if antialias else "bicubic without antialias"
    return path, resize, f"{path}: grid {before}x{before} -> {after}x{after}, {rule}"


def _text(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Resize, str] | None:
    """open_clip's rule: linear along the whole table, without antialias; no row is kept apart.
    VLMo, BEiT-3 and BERT read the first rows of a longer table.

    Source: open_clip `resize_text_pos_embed`.
    """
    before, after = (each.get("txt", {}).get("length") for each in (old, new))
    if before == after:
        return None
    if old["name"] in CUT:
        if after > before:
            raise UserError(f"texts of {after} tokens, but {old['name']} has {before} positions, which are only cut")
        unused = 2 * (old["name"] == "beit3")
        return TEXT, lambda table: float32(table)[: after + unused], f"{TEXT}: the first {after} of {before} tokens"
    cls = int(old["name"] == "coca")  # the class token's row is the last one

    def resize(table: np.ndarray) -> np.ndarray:
        return (linear_matrix(before + cls, after + cls) @ float32(table)).astype(np.float32)

    note = f"{TEXT}: {before} tokens -> {after}, linear without antialias (open_clip)"
    return TEXT, resize, note
