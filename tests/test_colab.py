"""The notebooks run from top to bottom, and are committed without outputs."""

import os
import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
TINY = {"STEPS": 3, "BATCH_SIZE": 16, "WIDTH": 4, "PICTURES": 32}


def tagged(notebook: nbformat.NotebookNode, tag: str) -> int:
    (place,) = [i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", ())]
    return place


def run(path: pathlib.Path, settings: dict, folder: pathlib.Path, monkeypatch) -> nbformat.NotebookNode:
    """Executes a notebook in a folder, with other values for its settings."""
    monkeypatch.setenv("XLA_FLAGS", "")  # one device: a notebook usually has one
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    values = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    place = tagged(notebook, "parameters")
    unknown = [name for name in settings if f"{name} = " not in notebook.cells[place].source]
    assert not unknown, f"{path.name} has no setting {unknown}"
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def outputs(notebook: nbformat.NotebookNode) -> tuple[str, int]:
    """(everything printed, number of pictures)."""
    every = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    printed = "".join(out.text for out in every if out.output_type == "stream")
    return printed, sum("image/png" in out.get("data", {}) for out in every)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000 and "/home/" not in text and "/content/" not in text
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
    titles = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert titles[0].startswith("# ") and len(titles) > 5


@pytest.mark.slow
def test_clip(tmp_path, monkeypatch):
    """Trains three steps, then runs again with that checkpoint in the place of training."""
    trained = run(ROOT / "colab" / "clip.ipynb", TINY, tmp_path, monkeypatch)
    printed, pictures = outputs(trained)
    assert pictures == 3 + 1 + 1 + 1 + 4 + 1 + 1 + 1  # styles, views, scenes, loss, searches, names, matrix, plane
    for part in ("stage train: 3 steps", "fluent, new/image_to_text_R@1", "32 pictures, 128 numbers", "a red fruit"):
        assert part in printed
    assert "Traceback" not in printed and "Error" not in printed
    loaded = run(ROOT / "colab" / "clip.ipynb", {**TINY, "CHECKPOINT": "runs/notebook"}, tmp_path, monkeypatch)
    printed, again = outputs(loaded)
    assert again == pictures and "stage train" not in printed
