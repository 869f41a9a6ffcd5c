"""Five hundred damaged checkpoint files: each is refused as damaged or read rightly, and nothing in it is run."""

import io
import json
import pathlib
import pickle
import sys
import zipfile

import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.weights import files
from tests.torch_files import archive, pickled

TENSORS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(4, 6),
    "b.bias": np.arange(5, dtype=np.float16),
    "scale": np.array(2.5, np.float32),
}
FUZZED = 500
STARTS = {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"}


def whole(folder: pathlib.Path, form: str) -> pathlib.Path:
    """A checkpoint in one of the forms; returns the file to open."""
    folder.mkdir(exist_ok=True)
    first, rest = dict(list(TENSORS.items())[:1]), dict(list(TENSORS.items())[1:])
    if form == "safetensors":
        files.write_safetensors(folder / files.WEIGHTS, TENSORS)
        return folder / files.WEIGHTS
    if form == "torch":
        archive(folder / "model.pt", TENSORS)
        return folder / "model.pt"
    write, ending = (files.write_safetensors, "safetensors") if form == "safetensors index" else (archive, "bin")
    write(folder / f"1.{ending}", first)
    write(folder / f"2.{ending}", rest)
    weight_map = dict.fromkeys(first, f"1.{ending}") | dict.fromkeys(rest, f"2.{ending}")
    index = folder / (files.INDEX if ending == "safetensors" else files.BIN_INDEX)
    index.write_text(json.dumps({"metadata": {"total_size": 110}, "weight_map": weight_map}))
    return index


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Changed, missing, added, repeated or exchanged bytes, or an end that is missing."""
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 20))
    noise = rng.bytes(length)
    kind = rng.integers(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + noise + data[at + length :]
    if kind == 2:
        return data[:at] + noise + data[at:]
    if kind == 3:
        return data[:at] + data[at + length :]
    if kind == 4:
        return data[:at] + data[max(0, at - length) :]
    if kind == 5:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    other = int(rng.integers(len(data)))
    return data[:at] + data[other : other + length] + data[at + length :]


def harmless(form: str, original: bytes, damaged: bytes) -> set[str]:
    """Tensors of a safetensors file whose own bytes were changed: the format has no check sum that would tell."""
    if form != "safetensors" or len(original) != len(damaged):
        return set()
    start = 8 + int.from_bytes(original[:8], "little")
    if original[:start] != damaged[:start]:
        return set(TENSORS)  # another header: what it says is checked by whoever knows the model
    about = json.loads(original[8:start])
    changed = {i - start for i in range(start, len(original)) if original[i] != damaged[i]}
    return {k for k, v in about.items() if k in TENSORS and changed & set(range(*v["data_offsets"]))}


def test_the_undamaged_files_are_read(tmp_path: pathlib.Path) -> None:
    for number, form in enumerate(("safetensors", "torch", "safetensors index", "torch index")):
        read = files.open_tensors(whole(tmp_path / str(number), form))
        assert read.keys() == sorted(TENSORS)
        for key, array in TENSORS.items():
            stored = read.read(key)
            assert stored.dtype == array.dtype and stored.shape == array.shape and np.array_equal(stored, array)


def test_damaged_files_are_refused_or_read_rightly(tmp_path: pathlib.Path) -> None:
    calls: list[str] = []
    watching = True

    def audit(event: str, _: tuple) -> None:
        if watching and (event.split(".")[0] in {"subprocess", "socket", "ctypes"} or event in STARTS):
            calls.append(event)

    sys.addaudithook(audit)
    rng, forms = np.random.default_rng(0), ("safetensors", "torch", "safetensors index", "torch index")
    made = {form: whole(tmp_path / form.replace(" ", "_"), form) for form in forms}
    refused, read_rightly = 0, 0
    for number in range(FUZZED):
        form = forms[number % len(forms)]
        path = made[form]
        # Of an index, the list itself in half of the cases, and one of its parts in the others.
        victim = path if path.suffix != ".json" or number % 8 < 4 else sorted(path.parent.glob("1.*"))[0]
        original = victim.read_bytes()
        damaged = damage(original, rng)
        victim.write_bytes(damaged)
        try:
            opened = files.open_tensors(path)
            found = {key: opened.read(key) for key in opened.keys()}  # noqa: SIM118
        except UserError as error:
            assert str(tmp_path) in str(error) and len(str(error)) < 2000, number
            refused += 1
        else:
            unsure = harmless(form if victim == path else victim.suffix[1:], original, damaged)
            for key, array in found.items():
                if victim.suffix in (".bin", ".pt", ".json") and key in TENSORS and damaged != original:
                    same = array.shape == TENSORS[key].shape and np.array_equal(array, TENSORS[key])
                    # What names and describes a tensor has a check sum in an archive, and none in an index.
                    assert same, (number, key)
                elif key in TENSORS and key not in unsure and len(original) == len(damaged):
                    assert np.array_equal(array, TENSORS[key]), (number, key)
            read_rightly += 1
        finally:
            victim.write_bytes(original)
    watching = False
    assert calls == []
    assert refused + read_rightly == FUZZED and refused > FUZZED // 2 and read_rightly > 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"x" * 257 + b"ustar" + b"\0" * 250, "tar archive"),
        (b"\x1f\x8b" + b"0" * 50, "gzip"),
        (pickle.dumps({"a": 1}), "no zip archive"),
    ],
)
def test_files_that_are_no_archive_are_named(content: bytes, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.open_tensors(path)


def test_compressed_and_repeating_storages_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.pt"
    archive(path, TENSORS)
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    path.write_bytes(content.getvalue())
    with pytest.raises(UserError, match="is compressed"):
        files.open_tensors(path).read("scale")
    repeated = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (1000, 1000), (0, 0))
    data = pickled({"a": repeated}).replace((10**6).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("w/data.pkl", data)
    with pytest.raises(UserError, match="repeats its 1 values"):
        files.open_tensors(path)
