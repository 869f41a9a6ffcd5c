"""`tfds:` - data sets of tensorflow-datasets that are prepared as ArrayRecord, read without TensorFlow."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import BadExample
from mmjax.data.files.base import decode_text, spell
from mmjax.data.files.columns import pick_columns
from mmjax.data.files.paths import one_folder
from mmjax.data.files.table import Table


class Tfds(Table):
    """Use `open`. Columns are the features; those inside others are named OUTER/INNER."""

    def __init__(
        self, name: str, dataset: str, *, split: str, data_dir: str | None, root: str | None,
        options: dict[str, str | None],
    ):  # fmt: skip
        """Opens the prepared data set.

        Raises:
          UserError: there is no such data set or split, it is not prepared as ArrayRecord, or a feature is missing.
        """
        self.name, self.dataset, self.split, self.data_dir, self.root = name, dataset, split, data_dir, root
        builder = open_builder(dataset, data_dir)
        self.folder = os.fspath(builder.data_dir)
        features = dict(_flat(builder.info.features))
        columns = [f for f in features if f.endswith(("captions/text", "caption/text"))]  # as coco_captions has them
        usual = (
            not options["text"] and not set(features) & {"text", "texts", "caption", "captions"} and len(columns) == 1
        )
        options = options | {"text": columns[0]} if usual else options
        self.columns = pick_columns(features, f"the data set {dataset}", **options)
        top = dict(builder.info.features.items())
        leaves = {name: _leaf(top.get(name)) for name in self.columns.used}
        self.inside = _kind(features[self.columns.image]) == "Image"
        names = getattr(features.get(self.columns.label or ""), "names", None)
        self._rows = self._open(builder)
        # The library's parser takes as long as decoding a small image: columns of simple kinds are read without it.
        direct = None not in leaves.values() and type(self._rows).__name__ == "ArrayRecordDataSource"
        self.simple = leaves if direct else None
        self.length = len(self._rows)
        if not self.length:
            raise UserError(f"tfds: the split {split} of {dataset} is empty")
        if names and any(not str(one).isdigit() for one in names):
            self.classes = tuple(str(one) for one in names)
        elif self.columns.label and _kind(features[self.columns.label]) == "Text":
            self._set_classes(decode_text(row) for row in self._label_cells())

    def _open(self, builder: Any) -> Any:
        """The data set's own source, images and everything else not decoded."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        skip = {
            name: tfds.decode.SkipDecoding() for name, feature in builder.info.features.items()
            if _kind(feature) in ("Image", "Video", "Audio")
        }  # fmt: skip
        known = list(builder.info.splits)
        if self.split.split("[")[0].split("+")[0] not in known:
            choose(f"split of {self.dataset}", self.split, known)
        try:
            self._parse = tf_example_pb2.Example.FromString
            return builder.as_data_source(split=self.split, decoders=skip)
        except NotImplementedError:
            raise UserError(
                f"tfds: {self.dataset} is prepared as {builder.info.file_format.value}, which has no random access; "
                "prepare it with file_format='array_record' in another data_dir"
            ) from None
        except Exception as error:  # of tensorflow-datasets: a slice that does not parse, a missing shard
            raise UserError(f"tfds: cannot open the split {self.split} of {self.dataset}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None, "_parse": None}

    def __len__(self) -> int:
        return self.length

    def _folder(self, index: int) -> str:
        return self.folder

    def _row(self, index: int) -> dict[str, Any]:
        if self._rows is None:
            self._rows = self._open(open_builder(self.dataset, self.data_dir))
        try:
            found = self._rows[index] if self.simple is None else self._simple(index)
        except Exception as error:  # of the file, of the protocol buffer, or of a feature
            raise BadExample(
                "malformed record", f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            ) from None
        row = dict(_flat(found))
        cell = row.get(self.columns.image)
        if isinstance(cell, np.ndarray | list):  # several pictures: the first
            row[self.columns.image] = cell[0] if len(cell) else None
        elif isinstance(cell, bytes) and not self.inside:
            row[self.columns.image] = decode_text(cell)  # a path
        return row

    def _simple(self, index: int) -> dict[str, Any]:
        """The columns that are used, straight from the record: a tf.train.Example."""
        features = self._parse(self._rows.data_source[index]).features.feature
        row: dict[str, Any] = {}
        for name, many in (self.simple or {}).items():
            if name in features:
                feature = features[name]
                kind = feature.WhichOneof("kind")
                values = list(getattr(feature, kind).value) if kind else []
                row[name] = values if many else values[0]
        return row

    def _label_cells(self) -> list[bytes]:
        cells = []
        for index in range(self.length):
            try:
                cells.append(self._row(index)[self.columns.label or ""])
            except BadExample:
                continue
        return cells


def open_builder(dataset: str, data_dir: str | None) -> Any:
    """The builder of a prepared data set: one of tensorflow-datasets, of mmjax, or a folder that holds one.

    Raises:
      UserError: there is none of this name, or it is not prepared.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError("tfds: tensorflow-datasets is not installed: pip install 'mmjax[tfds]'") from None
    from mmjax.data import tfds_builders

    if os.path.isdir(os.path.expanduser(dataset)):
        folder = os.path.expanduser(dataset)
        if not os.path.exists(os.path.join(folder, "dataset_info.json")):
            raise UserError(f"tfds: {folder} has no dataset_info.json: give the folder of a version, as NAME/1.0.0")
        return tfds.builder_from_directory(folder)
    tfds_builders.register()
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except Exception as error:  # DatasetNotFoundError, ValueError of a config, an ImportError of the builder's code
        raise UserError(f"tfds: no data set {dataset!r}: {str(error).strip().splitlines()[0][:200]}") from None
    if not os.path.exists(os.path.join(builder.data_dir, "dataset_info.json")):
        module = "mmjax.data.tfds_builders" if dataset.startswith("mmjax_") else None
        where = f" --data_dir {data_dir}" if data_dir else ""
        how = f"python -m {module} {dataset}{where}" if module else (
            f"tfds.builder({dataset!r}, file_format='array_record').download_and_prepare()"
        )  # fmt: skip
        raise UserError(f"tfds: {dataset} is not prepared: {builder.data_dir} does not exist; prepare it once: {how}")
    return builder


def _leaf(feature: Any) -> bool | None:
    """Whether a feature is stored as a list (True) or one value (False) of bytes or numbers; None for other kinds."""
    name = type(feature).__name__
    if name in ("Image", "Text", "ClassLabel"):
        return False
    return True if name == "Sequence" and _leaf(getattr(feature, "feature", None)) is False else None


def _kind(feature: Any) -> str:
    """Class of a feature; of a sequence, that of its elements."""
    name = type(feature).__name__
    inner = getattr(feature, "feature", None)
    return _kind(inner) if name == "Sequence" and inner is not None else name


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(OUTER/INNER, leaf) of nested mappings, of features or of values."""
    inner = getattr(tree, "feature", None)
    if type(tree).__name__ == "Sequence" and hasattr(inner, "items"):
        tree = inner
    if not hasattr(tree, "items"):  # the library's dictionary of features is no Mapping
        yield prefix, tree
        return
    for name, value in tree.items():
        yield from _flat(value, f"{prefix}/{name}" if prefix else name)


def open(
    arg: str | None = None,
    *,
    split: str = "train",
    data_dir: str | None = None,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    extra: str | None = None,
    root: str | None = None,
) -> Tfds:
    """The source `tfds:NAME[/CONFIG][:VERSION][?split=train&data_dir=DIR&image=FEATURE&text=FEATURE…]`.

    Args:
      arg: name of the data set, or the folder of a prepared version. `mmjax_emoji` and `mmjax_emoji_scenes` are the
        packaged data, prepared by `python -m mmjax.data.tfds_builders NAME`.
      split: as tensorflow-datasets writes it: train, test[:10%], …
      data_dir: where it is prepared; unless told, the library's own folder.
      image, text, label, key, extra: features, OUTER/INNER for one inside another; as for `jsonl`.
      root: folder that paths begin at, where the image's feature is a text; unless told, that of the data set.

    Raises:
      UserError: no such data set, split or feature, or it is not prepared as ArrayRecord.
    """
    if not arg:
        raise UserError("the source tfds needs a data set: tfds:NAME, tfds:NAME/CONFIG or tfds:FOLDER")
    options = {"image": image, "text": text, "label": label, "key": key, "extra": extra}
    name = spell("tfds", arg, {"split": split, "data_dir": data_dir, **options, "root": root})
    root = None if root is None else one_folder("tfds", root, "root=")
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    return Tfds(name, arg, split=split, data_dir=data_dir, root=root, options=options)
