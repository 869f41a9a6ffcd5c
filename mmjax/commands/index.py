"""An index over pictures: their embeddings, kept in a file and brought up to date when pictures or checkpoint change.

A picture that is a file, of a folder or named by a row of a table, is embedded again when the file's size or its time
of change differs from the kept ones; an index that another checkpoint (its weights, sizes or preprocessing) made is not
used at all.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float32

from mmjax.core import files, trees
from mmjax.core.errors import UserError
from mmjax.data.decode import decode_image
from mmjax.data.example import BadExample
from mmjax.data.files.base import FileSource, read_image
from mmjax.data.files.folder import SUFFIXES, files_below, suffix
from mmjax.data.sources import open_source, parse_spec
from mmjax.evals.base import LeftOut
from mmjax.evals.images import alternatives
from mmjax.model import LoadedModel
from mmjax.train.progress import Progress

_FAISS = "faiss"  # the module; the distribution, which only the extra installs, is called faiss-cpu
_READERS = 8  # threads that read and decode


@runtime_checkable
class Gallery(Protocol):
    """Pictures to search.

    Attributes:
      name: for messages.
      stamps: for every picture what changes when the picture does.
      threads: how many may read at a time.
    """

    name: str
    stamps: list[str]
    threads: int

    def key(self, index: int) -> str: ...

    def picture(self, index: int) -> np.ndarray:
        """uint8[Y, X, C]; raises BadExample."""
        ...


class Folder:
    """The image files of a folder and of those below it, in the order of their paths. Hidden ones are left out.

    Raises:
      UserError: no such folder, or no image file in it.
    """

    threads = _READERS

    def __init__(self, path: pathlib.Path):
        if not path.is_dir():
            raise UserError(f"{path} is not a folder")
        self.name, self._path = str(path), path
        self._files = sorted(name for name in files_below(str(path)) if suffix(name) in SUFFIXES)
        if not self._files:
            raise UserError(f"{path} holds no image file: no name in it or below ends in {', '.join(sorted(SUFFIXES))}")
        self.stamps = [_stamp(path / name) for name in self._files]

    def key(self, index: int) -> str:
        return self._files[index].replace(os.sep, "/")

    def picture(self, index: int) -> np.ndarray:
        return decode_image(read_image(str(self._path / self._files[index])))


def _stamp(path: pathlib.Path) -> str:
    """Size and time of change."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # a link to nowhere, or a file that was just removed: reading it will say so
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


class SourceGallery:
    """The first picture of every example of a source.

    One that is a file of its own, named by a row, changes with that file, its key and its path. Those that the data
    hold all change when a file changes that the spec names.
    """

    threads = 1  # a source promises nothing about threads

    def __init__(self, spec: str):
        self.name, self._source = spec, open_source(spec)
        if not len(self._source):
            raise UserError(f"{spec} has no example")
        self.stamps = [self._stamp_of(index) for index in range(len(self._source))]

    def _stamp_of(self, index: int) -> str:
        if isinstance(self._source, FileSource):
            try:
                if (named := self._source.image_file(index)) is not None:
                    key, path = named[0], pathlib.Path(named[1]).absolute()
                    return f"{key}:{path}:{_stamp(path)}"
            except BadExample as error:  # nothing that any file could mend
                return f"unusable:{index}:{error}"
        return f"{self._mark}:{index}"

    @functools.cached_property
    def _mark(self) -> str:
        """What changes when a file changes that the spec names."""
        parsed = parse_spec(self.name)
        named = [path for word in (parsed.arg, *parsed.options.values()) if word for path in _named_files(word)]
        state = ";".join(f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in named)
        return hashlib.sha256(f"{len(self._source)};{state}".encode()).hexdigest()[:16]

    def key(self, index: int) -> str:
        return str(self._source[index].get("key", index))

    def picture(self, index: int) -> np.ndarray:
        return alternatives(self._source[index])[0]


def _named_files(word: str) -> list[pathlib.Path]:
    """The file of that name, or every file in the folder of that name (or in the last folder that a pattern names)."""
    path = pathlib.Path(word).expanduser()
    while any(mark in str(path) for mark in "*?{["):
        path = path.parent
    if path.is_file():
        return [path]
    if path == pathlib.Path(".") or not path.is_dir():
        return []
    return sorted(file for file in path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Found:
    """A picture that a search found."""

    index: int  # in the gallery
    key: str
    similarity: float


@dataclass
class Index:
    """Embeddings of a gallery's pictures.

    Attributes:
      keys: names of the N pictures. places: int64[N], their indices in the gallery.
      features: float32[N, E], unit length.
      left_out: pictures that could not be read.
      embedded: how many were embedded now; the others were kept from before.
      note: why nothing kept was used, or why nothing could be kept, if that is so.
    """

    keys: list[str]
    places: np.ndarray
    features: Float32[np.ndarray, "N E"]
    left_out: list[LeftOut] = field(default_factory=list)
    embedded: int = 0
    note: str = ""

    def search(self, query: Float32[np.ndarray, " E"], k: int, backend: str = "matrix") -> list[Found]:
        """The `k` pictures most similar to a query of unit length, the best first.

        Raises:
          UserError: a k below 1 or above the number of pictures, an unknown backend, or faiss is not installed.
        """
        if not 1 <= k <= len(self.keys):
            raise UserError(f"--top {k}: the index holds {len(self.keys)} pictures; valid: 1 to {len(self.keys)}")
        if backend == "matrix":
            scores = self.features @ query
            # Equal scores stand in the order of the gallery; only what may be among the first k is sorted.
            candidates = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
            found = [(int(row), float(scores[row])) for row in order]
        elif backend == "faiss":
            found = _faiss_search(self.features, query, k)
        else:
            raise UserError(f"--backend {backend}: valid are matrix and faiss")
        return [Found(int(self.places[row]), self.keys[row], score) for row, score in found]


def _faiss_search(features: np.ndarray, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    try:
        faiss: Any = importlib.import_module(_FAISS)
    except ImportError as error:
        raise UserError("--backend faiss needs faiss: pip install 'mmjax[faiss]', or use --backend matrix") from error
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(np.ascontiguousarray(features, np.float32))
    scores, rows = index.search(np.ascontiguousarray(query[None, :], np.float32), k)
    return [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True)]


def identity(loaded: LoadedModel) -> str:
    """What decides a model's embeddings of pictures, as a hash: weights, sizes, preprocessing."""
    digest = hashlib.sha256()
    said = {"system": loaded.system, "preprocess": repr(loaded.tools.preprocess)}
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for path, leaf in sorted(trees.flatten(jax.device_get(loaded.variables)).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path}:{array.dtype}:{array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def build(gallery: Gallery, loaded: LoadedModel, file: pathlib.Path | None, *, rebuild: bool = False) -> Index:
    """The index of a gallery, from what is kept in `file` as far as it holds, which is then brought up to date.

    Pictures that cannot be read are left out, and not tried again until they change. An interrupted build keeps what
    it has done.

    Args:
      gallery: the pictures.
      loaded: the model.
      file: where the index is kept; None keeps nothing.
      rebuild: do not use what is kept.

    Raises:
      UserError: not one picture can be read.
    """
    who = identity(loaded)
    kept, note = ({}, "") if file is None or rebuild else _read(file, who)
    known = {index: kept[stamp] for index, stamp in enumerate(map(_full_stamp(gallery), range(len(gallery.stamps))))
             if stamp in kept}  # fmt: skip
    wanted = [index for index in range(len(gallery.stamps)) if index not in known]
    stamps = {_full_stamp(gallery)(index) for index in range(len(gallery.stamps))}  # rows may name one picture twice
    try:
        for index, entry in _embedded(gallery, loaded, wanted):
            known[index] = entry
    finally:
        if file is not None and (wanted or kept.keys() != stamps):
            note = _write(file, who, {_full_stamp(gallery)(i): known[i] for i in sorted(known)}) or note
    good = [index for index in sorted(known) if known[index].features is not None]
    left_out = [
        LeftOut(gallery.name, i, known[i].why, known[i].key) for i in sorted(known) if known[i].features is None
    ]
    if not good:
        raise UserError(f"{gallery.name}: not one of {len(known)} pictures can be read; the first: {left_out[0].why}")
    features = np.stack([known[index].features for index in good])
    return Index([known[i].key for i in good], np.asarray(good), features, left_out, len(wanted), note)


class _Entry(NamedTuple):
    key: str
    features: Any  # float32[E], or None
    why: str  # nothing could be read, if so


def _full_stamp(gallery: Gallery) -> Any:
    """Index -> what an entry is kept under: for a folder, the file's name belongs to it."""
    if isinstance(gallery, Folder):
        return lambda index: f"{gallery.key(index)}:{gallery.stamps[index]}"
    return lambda index: gallery.stamps[index]


def _embedded(gallery: Gallery, loaded: LoadedModel, wanted: Sequence[int]) -> Iterator[tuple[int, _Entry]]:
    """Entries of some pictures; while a batch is embedded, the next one is read."""
    size, bar = loaded.predictor.batch_size, Progress(max(1, len(wanted)), stage="index")
    batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]

    def read(index: int) -> tuple[str, np.ndarray | BadExample]:
        try:
            picture = loaded.tools.preprocess(gallery.picture(index))
            return gallery.key(index), picture
        except BadExample as error:
            return (gallery.key(index) if isinstance(gallery, Folder) else str(index)), error

    with contextlib.closing(bar), concurrent.futures.ThreadPoolExecutor(gallery.threads) as pool:
        ahead = [pool.submit(read, index) for index in batches[0]] if batches else []
        done = 0
        try:
            for number, batch in enumerate(batches):
                results = [future.result() for future in ahead]
                ahead = [pool.submit(read, i) for i in batches[number + 1]] if number + 1 < len(batches) else []
                pictures = [picture for _, picture in results if not isinstance(picture, BadExample)]
                rows = iter(loaded.predictor.embed_image(pictures) if pictures else ())
                for index, (key, picture) in zip(batch, results, strict=True):
                    bad = isinstance(picture, BadExample)
                    yield index, _Entry(key, None if bad else next(rows), str(picture) if bad else "")
                done += len(batch)
                bar.update(done)
        finally:
            for future in ahead:
                future.cancel()


def _read(file: pathlib.Path, who: str) -> tuple[dict[str, _Entry], str]:
    """(stamp -> entry, why nothing of it is used)."""
    if not file.is_file():
        return {}, ""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["identity"] != who:
                return {}, "the index was made by another checkpoint: it is built again"
            features, places = stored["features"], about["rows"]
            return {
                stamp: _Entry(key, None if row is None else features[row], why)
                for stamp, key, row, why in zip(about["stamps"], about["keys"], places, about["why"], strict=True)
            }, ""
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        return {}, f"the index {file} cannot be read ({error}): it is built again"


def _write(file: pathlib.Path, who: str, entries: Mapping[str, _Entry]) -> str:
    """Writes the file; returns why it could not, or nothing."""
    good = [entry.features for entry in entries.values() if entry.features is not None]
    place = iter(range(len(good)))
    about = {
        "identity": who,
        "stamps": list(entries),
        "keys": [entry.key for entry in entries.values()],
        "rows": [None if entry.features is None else next(place) for entry in entries.values()],
        "why": [entry.why for entry in entries.values()],
    }
    content = io.BytesIO()
    features = np.stack(good) if good else np.zeros((0, 0), np.float32)
    np.savez(content, features=features, about=np.asarray(json.dumps(about)))
    try:
        files.make_folder(file.parent)
        files.write_bytes(file, content.getvalue())
    except UserError as error:
        return f"the index is not kept: {error}"
    return ""
