"""`webdataset:` - tar shards in which files of one name and different endings are a sample: 0001.jpg, 0001.txt, …"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import BadExample, Example
from mmjax.data.files.arrayrecord import one_name_each
from mmjax.data.files.base import FileSource, Record, captions, check_bytes, decode_text, spell
from mmjax.data.files.columns import LABEL, TEXT
from mmjax.data.files.folder import SUFFIXES
from mmjax.data.files.paths import Handles, find_files
from mmjax.data.files.table import as_label, plain
from mmjax.data.files.tar_index import Members, ShardIndex, shard_index

PROBE = 100  # samples from which endings and keys of the JSON are learned
IMAGES = frozenset(end[1:] for end in SUFFIXES)
TEXTS = ("txt", "text", "caption")
PREFERRED = ("texts", *TEXTS, *TEXT)  # a list of all captions before one of them


class WebDataset(FileSource):
    """Use `open`. Items in the order of the shards, then of the samples in them."""

    def __init__(self, name: str, files: Sequence[str], options: dict[str, str | None], lines: bool):
        """Reads or builds the index of every shard.

        Raises:
          UserError: a shard cannot be read, there is no sample, or no part of that name.
        """
        self.name, self.files, self.lines = name, tuple(files), lines
        self.indexes: list[ShardIndex] | None = [shard_index(path) for path in files]
        self.ends = np.cumsum([len(index) for index in self.indexes])
        self.handles = Handles()
        if not len(self):
            raise UserError(f"webdataset: {', '.join(self.files[:3])}: no samples (files NAME.jpg, NAME.txt, …)")
        self.image, self.text, self.label, self.key = (options[part] for part in ("image", "text", "label", "key"))
        self.extra = tuple(options["extra"].split(",")) if options["extra"] else ()
        named = ",".join(given for part, given in options.items() if given and part != "image")
        self.read = {"cls", *TEXTS, *named.split(",")}  # members that are read besides the image and the .json
        self._check_parts(options)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "indexes": None}  # each process reads the index files itself

    def _locate(self, index: int) -> tuple[str, str, Members]:
        """Shard, key and members of a sample."""
        if self.indexes is None:
            self.indexes = [shard_index(path) for path in self.files]
            if [len(one) for one in self.indexes] != np.diff(self.ends, prepend=0).tolist():
                raise UserError(f"{self.name}: shards have changed since they were opened")
        shard = int(np.searchsorted(self.ends, index, side="right"))
        key, members = self.indexes[shard].sample(index - (int(self.ends[shard - 1]) if shard else 0))
        return self.files[shard], key, members

    def _read(self, index: int) -> Record:
        shard, key, members = self._locate(index)
        cells = self._cells(shard, members)
        if self.key:
            key = str(plain(cells.get(self.key, key)))
        label, name = self._label(cells)
        texts = self._texts(cells, name)
        end = self.image or next((end for end in members if end in IMAGES), None)
        if end is None or end not in members:
            raise BadExample("missing file", f"{shard}: sample {key} has no image; it has {', '.join(members)}")
        data = check_bytes(self._bytes(shard, members[end]), f"{shard}: {key}.{end}")
        extra: dict[str, Any] = {"labels": {"en": name}} if name and label is not None else {}
        return Record(key, data, texts, label, extra | {part: plain(cells.get(part)) for part in self.extra})

    def _cells(self, shard: str, members: Members) -> dict[str, Any]:
        """The parts of a sample that are not images: small files by ending, and the keys of its JSON."""
        cells: dict[str, Any] = {}
        for end, place in members.items():
            if end == "json":
                cells |= _object(decode_text(self._bytes(shard, place)))
            elif end in self.read:
                cells[end] = self._bytes(shard, place)
        return cells

    def _bytes(self, shard: str, place: Sequence[int]) -> bytes:
        try:
            return self.handles.read(shard, *place)
        except OSError as error:
            raise BadExample("malformed record", f"{shard}: {error.strerror}") from None

    def _texts(self, cells: dict[str, Any], class_name: str | None) -> list[str]:
        if self.text:
            found = [cells.get(name) for name in self.text.split(",")]
        else:
            found = [cells[next(name for name in PREFERRED if name in cells)]] if _any(cells) else []
        if not found and class_name:
            found = [class_name]
        if self.lines:
            whole = [decode_text(cell) if isinstance(cell, bytes) else cell for cell in found]
            return captions(*(cell.splitlines() if isinstance(cell, str) else cell for cell in whole))
        return captions(*found)

    def _label(self, cells: dict[str, Any]) -> tuple[int | None, str | None]:
        """Class and, if the sample tells it, its name."""
        value = cells.get(self.label or next((name for name in ("cls", *LABEL) if name in cells), ""))
        if value is None or value in ("", b""):
            return None, None
        number = as_label(decode_text(value) if isinstance(value, bytes) else value)
        names = cells.get("labels")
        name = names.get("en") if isinstance(names, dict) else None
        if number is None and self.label:
            raise BadExample("malformed record", f"{self.label} {str(value)[:80]!r} is no class number from 0 on")
        return number, name if isinstance(name, str) else None

    def _check_parts(self, options: dict[str, str | None]) -> None:
        """Every part that the spec names is in one of the first samples, and there are images and texts at all."""
        parts: dict[str, None] = {}
        for index in range(min(PROBE, len(self))):
            shard, _, members = self._locate(index)
            parts.update(dict.fromkeys(members))
            try:
                parts.update(dict.fromkeys(self._cells(shard, members)))
            except BadExample:
                continue  # counted when it is read
        for option, given in options.items():
            for name in given.split(",") if given else ():
                choose(f"part {option}={given} of the samples in {self.files[0]}", name, parts)
        has = f"the first samples of {self.files[0]} have {', '.join(parts)}"
        if not self.image and not IMAGES & parts.keys():
            raise UserError(f"webdataset: no images: {has}; say which ending is the image with ?image=ENDING")
        if not self.text and not parts.keys() & {*PREFERRED, "labels"}:
            raise UserError(
                f"webdataset: no captions: {has}; say where they are with ?text=ENDING (or a key of the JSON)"
            )
        taken = [name for name in self.extra if name in Example.__annotations__]
        if taken:
            raise UserError(f"webdataset: extra={taken[0]} would replace the example's own {taken[0]!r}")

    def class_names(self, lang: str | None = None) -> list[str]:
        """Names of the classes, by `label`, collected from all samples on the first call (as for `arrayrecord`)."""
        if not self.classes:
            names: dict[int, set[str]] = {}
            for index in range(len(self)):
                shard, _, members = self._locate(index)
                try:
                    label, name = self._label(self._cells(shard, members))
                except BadExample:
                    continue
                if label is not None and name:
                    names.setdefault(label, set()).add(name)
            self.classes = one_name_each(self.name, names)
        return super().class_names(lang)


def _any(cells: dict[str, Any]) -> bool:
    return any(name in cells for name in PREFERRED)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadExample("malformed record", f"the .json of the sample: {error}") from None
    if not isinstance(found, dict):
        raise BadExample("malformed record", f"the .json of the sample is no object: {text[:40]}")
    return found


def open(
    arg: str | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    extra: str | None = None,
    lines: bool = False,
) -> WebDataset:
    """The source `webdataset:PATTERN[?image=ENDING&text=PART&label=PART&key=PART…]`.

    A part is an ending of the sample's files (`txt`) or a key of its .json.

    Args:
      arg: a tar file, a folder of them, or a pattern with `*`, `{000..009}` or `{a,b}`; plain tar, not compressed.
      image: ending of the image; unless told, the first that is one.
      text: the caption, or a list of captions; unless told .txt, .text, .caption, or the usual keys of the .json.
      label: the class, a number; unless told .cls, or the usual keys of the .json.
      key: the item's name; unless told, the path of its files up to the first dot.
      extra: parts to carry into the example, with commas.
      lines: every line of a .txt is a caption of its own.

    Raises:
      UserError: no such shard, a damaged or compressed one, or no such part.
    """
    files = find_files("webdataset", arg, (".tar",))
    options = {"image": image, "text": text, "label": label, "key": key, "extra": extra}
    return WebDataset(spell("webdataset", arg, {**options, "lines": lines}), files, options, lines)
