"""The notebooks run from top to bottom, and are committed without outputs."""

import os
import pathlib

import nbclient
import nbformat
import pytest

from mmjax import checks
from mmjax.core.config import load, plain

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# For each notebook: small settings, how many pictures it shows then, and parts of what it prints.
RUNS = (
    (
        "clip",
        {"STEPS": 3, "BATCH_SIZE": 16, "WIDTH": 4, "PICTURES": 32},
        3 + 1 + 1 + 1 + 4 + 1 + 1 + 1,  # styles, views, scenes, loss, searches, names, matrix, plane
        ("stage train: 3 steps", "fluent, new/image_to_text_R@1", "32 pictures, 128 numbers", "a red fruit"),
    ),
    (
        "captioning_and_retrieval",
        {"FIRST_STEPS": 2, "WRITING_STEPS": 2, "STEPS": 3, "BATCH_SIZE": 8, "WIDTH": 16, "PICTURES": 20},
        1 + 1 + 1 + 1 + 4 + 1 + 1 + 1,  # scenes, wrong captions, loss, written, searches, histograms, curves, filtered
        (
            "stage names: 2",
            "stage scenes: 3",
            "val_captions/CIDEr",
            "a true caption",
            "100 texts",
            "true among the kept",
        ),
    ),
    (
        "masked_data_modelling",
        {"TEACHER_STEPS": 4, "TOKENIZER_STEPS": 2, "STEPS": 3, "BATCH_SIZE": 8, "WIDTH": 16, "PICTURES": 20},
        1 + 1 + 2 + 1 + 1,  # scenes, losses, codes, masked pictures, masked words
        (
            "stage names: 2 steps",
            "stage train: 2 steps",
            "stage pretrain: 3 steps",
            "of 256 codes are used",
            "hidden patches whose code is guessed right",
            "hidden words guessed right",
        ),
    ),
    (
        "visual_chat",
        {"LANGUAGE_STEPS": 2, "NAMES_STEPS": 2, "SEE_STEPS": 2, "ALIGN_STEPS": 2, "INSTRUCT_STEPS": 2,
         "BATCH_SIZE": 8, "WIDTH": 16, "PICTURES": 6},
        1 + 1 + 1 + 1 + 1 + 1 + 1,  # conversations, loss, a scene, two scenes, mistakes, counts, where answers rest
        ("stage names: 2", "stage instruct: 2", "val_vqa/accuracy", "learned: [' yes", "> What do you see", "both:",
         "commonest", "answers are wrong"),
    ),
)  # fmt: skip


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


def cell(name: str, tag: str) -> str:
    """The source of a notebook's tagged cell."""
    notebook = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)
    return notebook.cells[tagged(notebook, tag)].source


@pytest.mark.parametrize(("name", "config"), [("captioning_and_retrieval", "blip/emoji_scenes"),
                                              ("visual_chat", "llava/v1_5_emoji_scenes")])  # fmt: skip
def test_a_notebook_trains_the_repository_s_config(name, config):
    """The package has no configs/, so the notebook holds the mapping: with its own settings, that of the config."""
    made: dict = {}
    exec(cell(name, "parameters") + "\n" + cell(name, "config"), made)
    ours, theirs = plain(made["config"]), plain(load(ROOT / "configs" / f"{config}.py"))
    checks.check_config(ours)
    for part in ("seed", "system", "tokenizer", "data", "stages"):
        assert ours[part] == theirs[part], part
    assert list(ours["stages"]) == list(theirs["stages"])


def test_masked_data_modelling_trains_the_repository_s_configs():
    """The three runs are those of the small configs, with fewer steps; of BEiT-3 pre-training alone."""
    made: dict = {}
    exec(cell("masked_data_modelling", "parameters") + "\n" + cell("masked_data_modelling", "config"), made)
    small = {name: plain(load(f"{ROOT}/configs/{form}")) for name, form in (
        ("teacher", "clip/emoji_scenes.py"), ("tokenizer", "vqkd/emoji_scenes.py:clip"),
        ("model", "beit3/emoji_scenes.py:vqkd"))}  # fmt: skip
    for name, theirs in small.items():
        ours = plain(made[name])
        checks.check_config(ours)
        system = dict(theirs["system"])
        if name == "model":
            system = {key: value for key, value in system.items() if key not in ("classes", "smoothing")}
            system["tasks"] = ["mdm"]
            theirs["stages"].pop("finetune")
        assert ours["system"] == system and ours["tokenizer"] == theirs["tokenizer"]
        assert list(ours["stages"]) == list(theirs["stages"])
        for stage, settings in theirs["stages"].items():
            found = {key: value for key, value in ours["stages"][stage].items() if key not in ("steps", "data")}
            assert found == {key: settings[key] for key in found}, stage
        if name != "teacher":
            assert [{**ours["init"][0], "path": ""}] == [{**theirs["init"][0], "path": ""}]


@pytest.mark.slow
@pytest.mark.parametrize("name, settings, pictures, parts", RUNS, ids=[name for name, *_ in RUNS])
def test_trains_and_loads(name, settings, pictures, parts, tmp_path, monkeypatch):
    """Trains a few steps, then runs again with that checkpoint in the place of training."""
    path = ROOT / "colab" / f"{name}.ipynb"
    made: dict = {}
    exec(cell(name, "parameters"), made)
    trained = run(path, settings, tmp_path, monkeypatch)
    printed, shown = outputs(trained)
    assert shown == pictures
    for part in parts:
        assert part in printed
    assert "Traceback" not in printed and "Error" not in printed
    loaded = run(path, {**settings, "CHECKPOINT": made["WORKDIR"]}, tmp_path, monkeypatch)
    printed, shown = outputs(loaded)
    assert shown == pictures and "stage" not in printed
