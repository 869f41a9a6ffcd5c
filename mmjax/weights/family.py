"""What mmjax knows of the published checkpoints of one system, in one form for all systems."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from mmjax.weights.files import Tensors
from mmjax.weights.layout import Table


class Origin(NamedTuple):
    """What a checkpoint says besides its parameters, so that it can be written again bit for bit.

    Attributes:
      layout: "hf", "openai", "open_clip", "albef", ….
      config: its configuration.
      custom_text: open_clip: the text tower's keys begin with `text.`.
      one_value: CLIP: scale and bias are stored as `[1]`.
      buffers: see `layout.Account`.
      dtypes: our path -> dtype in which it was stored, where that is not float32.
      resample: how pictures are resized, "bicubic" or "bilinear".
      fit: how pictures become a square, "square", "crop" or "pad", where a folder of its kind may say it.
      form: what else only its tensors tell, by the family's own names, such as {"momentum": True}.
    """

    layout: str
    config: dict[str, Any]
    custom_text: bool = False
    one_value: bool = False
    buffers: Mapping[str, Any] = {}
    dtypes: Mapping[str, str] = {}
    resample: str = "bicubic"
    fit: str = ""
    form: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint on disk, before a family has looked at it.

    Attributes:
      source: the folder or the file.
      config: its configuration; None where no file holds one.
      where: the configuration's name, for messages.
      tensors: its weights.
    """

    source: pathlib.Path
    config: dict[str, Any] | None
    where: str
    tensors: Tensors

    @property
    def folder(self) -> pathlib.Path:
        """The folder, or the one of the file."""
        return self.source if self.source.is_dir() else self.source.parent


Flat = Mapping[str, Any]


def _nothing(*_: Any) -> None:
    return None


def _as_they_are(
    flat: Flat, system: Mapping[str, Any], _layout: str, _origin: Origin | None
) -> tuple[Flat, Mapping[str, Any]]:
    return flat, system


@dataclasses.dataclass(frozen=True)
class Family:
    """The published layouts of one system.

    Attributes:
      layouts: their names.
      recognise: a checkpoint -> (system mapping with its sizes spelled out, origin); None: it is not of this family.
        Raises UserError for one that is, and that mmjax does not compute as its publisher does.
      table: (system, origin) -> the table of its tensors. Collections besides those of the system: "teacher", momentum
        copies of the parameters under the same paths.
      target: (system, layout, origin or None, id that ends a text or None, paths of the variables) -> the origin to
        write. Raises UserError if the layout cannot hold the system.
      prepare: (flat variables, system, layout, origin or None) -> (flat variables, system) with what the layout needs
        and the system lacks.
      write: (folder, system, origin) -> None: writes what stands beside weights and config.json.
      notes: (origin) -> lines for the account.
    """

    layouts: tuple[str, ...]
    recognise: Callable[[Published], tuple[dict[str, Any], Origin] | None]
    table: Callable[[Mapping[str, Any], Origin], Table]
    target: Callable[[Mapping[str, Any], str, Origin | None, int | None, Collection[str]], Origin]
    prepare: Callable[[Flat, Mapping[str, Any], str, Origin | None], tuple[Flat, Mapping[str, Any]]] = _as_they_are
    write: Callable[[pathlib.Path, Mapping[str, Any], Origin], None] = _nothing
    notes: Callable[[Origin], tuple[str, ...]] = lambda origin: ()
