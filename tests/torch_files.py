"""Torch archives made without torch."""

import pathlib
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np

KINDS = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


def pickled(tensors: Mapping[str, np.ndarray], under: str = "", view: bytes = b"") -> bytes:
    """data.pkl of a state dict, opcode by opcode.

    `under`: the key of a dictionary that holds it; `view`: what stands behind a storage's count (before torch 1.6).
    """

    def text(value: str) -> bytes:
        data = value.encode()
        return b"X" + len(data).to_bytes(4, "little") + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + value.to_bytes(4, "little") for value in values) + b"t"

    out = b"\x80\x02" + (b"}" + text(under) if under else b"") + b"}("
    for key, (name, array) in enumerate(tensors.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = b"(" + text("storage") + f"ctorch\n{KINDS[str(array.dtype)]}\n".encode() + text(str(key))
        storage += text("cpu") + b"J" + array.size.to_bytes(4, "little") + view + b"tQ"
        out += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + bytes(4)
        out += numbers(array.shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return out + (b"us." if under else b"u.")


def archive(path: pathlib.Path, tensors: Mapping[str, np.ndarray], under: str = "") -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("w/data.pkl", pickled(tensors, under))
        for key, array in enumerate(tensors.values()):
            with made.open(f"w/data/{key}", "w") as file:  # without a copy: benchmarks write large ones
                file.write(np.ascontiguousarray(array).data if array.ndim else array.tobytes())


def chain(path: pathlib.Path, tensors: Mapping[str, np.ndarray], under: str = "") -> None:
    """A file as torch wrote it before 1.6: pickles, then every storage's count and bytes."""
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    names = [str(key) for key in range(len(tensors))]
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
    parts = [*head, pickled(tensors, under, view=b"N"), pickle.dumps(names[::-1], protocol=2)]
    for array in list(tensors.values())[::-1]:
        parts += [array.size.to_bytes(8, "little"), array.tobytes()]
    path.write_bytes(b"".join(parts))
