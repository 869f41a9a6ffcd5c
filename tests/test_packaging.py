"""A wheel built from the source tree holds all of mmjax, data included."""

import email
import importlib
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import mmjax

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mmjax", source / "mmjax", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(pip, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (email.message_from_bytes(archive.read(n)) for n in names if n.endswith(".dist-info/METADATA"))
        (scripts,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt"))
    ours = {path.relative_to(source).as_posix() for path in (source / "mmjax").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("mmjax/")} == ours
    assert metadata["Version"] == mmjax.__version__
    module, function = scripts.split("=")[1].strip().split(":")
    assert callable(getattr(importlib.import_module(module), function))
