"""Published checkpoints into systems, and systems into published checkpoints.

A checkpoint is a folder with its publisher's configuration and weights, or a weight file with the configuration beside
it (OpenAI's and llama.cpp's need none). Whoever calls gives the shapes of our tree: this folder knows names and
layouts, not models.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import unstack_blocks
from mmjax.weights import families, files, gguf_llama, positions
from mmjax.weights.clip_family import OPEN_CLIP_CONFIG
from mmjax.weights.family import Origin, Published
from mmjax.weights.gguf_file import GGUFTensors
from mmjax.weights.layout import Account, Table, plain_numbers
from mmjax.weights.transforms import Shape

CONFIG = "config.json"
TEACHER = "teacher"  # collection of momentum copies: paths and shapes are those of the parameters

Shapes = Callable[[Mapping[str, Any]], Mapping[str, Shape]]


class Loaded(NamedTuple):
    """A checkpoint as `load` returns it.

    Attributes:
      system: mapping for `systems.build`, sizes spelled out.
      variables: {"params": …} and, where there are some, "batch_stats", "queue", "teacher" (momentum copies of
        parameters); float32, and int32 for whole numbers.
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
    published = _open(source)
    system, origin = families.recognise(published)
    found = origin.layout
    if layout not in (None, found):
        raise UserError(f"{published.where} is of the layout {found!r}, not {layout!r}")
    resized = positions.resized_system(system, image_size, text_length)
    grow, notes = positions.resizing(system, resized, found)
    notes += families.family_of(system).notes(origin)

    def finish(path: str, array: np.ndarray) -> Any:
        array = grow(path, array)
        return plain_numbers(array) if place is None else place(path, array)

    table = families.table_of(system, origin)
    flat, account = table.read(published.tensors, _with_teacher(shapes(system), table), str(source), finish, only)
    origin = origin._replace(
        buffers=account.buffers, dtypes={path: kind for path, kind in account.stored.items() if kind != "float32"}
    )
    return Loaded(resized, trees.unflatten(flat), dataclasses.replace(account, notes=notes), origin)


def _with_teacher(shapes: Mapping[str, Shape], table: Table) -> dict[str, Shape]:
    """The shapes with those of the momentum copies that the table holds."""
    copies = [path for row in table.expand() if row.collection == TEACHER for path in row.paths]
    student = {path: f"params/{path.partition('/')[2]}" for path in copies}
    return {**shapes, **{path: shapes[of] for path, of in student.items() if of in shapes}}


def read_system(source: str | pathlib.Path) -> tuple[dict[str, Any], str]:
    """(system mapping, layout) of a published checkpoint; no tensor is read.

    Raises:
      UserError: see `load`.
    """
    system, origin = families.recognise(_open(pathlib.Path(source)))
    return system, origin.layout


def _open(source: pathlib.Path) -> Published:
    """The tensors and the configuration beside them, if there is one."""
    tensors = files.open_tensors(source)
    if isinstance(tensors, GGUFTensors):  # which says by itself what it is
        return Published(source, gguf_llama.config_of(tensors), str(tensors.path), tensors)
    folder = source if source.is_dir() else source.parent
    names = (CONFIG, OPEN_CLIP_CONFIG)  # some folders hold both, with weights of both layouts
    if files.find_weights(source).name in files.OPEN_CLIP_WEIGHTS:
        names = (OPEN_CLIP_CONFIG, CONFIG)
    for name in names:
        if (folder / name).is_file():
            return Published(source, files.read_json(folder / name), str(folder / name), tensors)
    return Published(source, None, str(source), tensors)


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
      layout: one of the family's, such as "hf", "openai" or "open_clip".
      directory: made if missing.
      origin: where the variables were imported from: its dtypes stay, and in its own layout its keys and config too.
      eos_id: the id that ends a text; None: the largest id of the text.

    Raises:
      UserError: the layout cannot hold this system; the message says why.
    """
    families.check_layout(system, layout)
    family, flat = families.family_of(system), flat_variables(variables)
    target = family.target(system, layout, origin, eos_id, flat.keys())
    table = family.table(system, target)
    tensors = table.published(flat, origin.dtypes if origin else None)
    tensors |= table.extra(origin.buffers if origin else {}, origin is not None and origin.layout == layout)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files.write_safetensors(directory / files.WEIGHTS, tensors)
    files.write_json(directory / CONFIG, target.config)
    family.write(directory, system, target)


def flat_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Collections as one flat dictionary, "params/img/cls" -> array, with unrolled blocks."""
    return trees.flatten(unstack_blocks(variables))
