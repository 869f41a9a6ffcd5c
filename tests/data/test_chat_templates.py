"""Prompts, ids and labels of the published templates, as the published code makes them."""

import pathlib

import pytest

from mmjax.commands.golden_chat import run_task

FOLDER = pathlib.Path(__file__).parents[1] / "golden/templates/a"


@pytest.mark.parametrize("task", sorted(path.stem for path in FOLDER.glob("llava.*.json")))
def test_published_conversations(task):
    output = run_task(FOLDER, task)
    for name in ("prompt", "labels"):
        ours, wanted = output(name)
        assert ours == wanted and len(wanted) >= 3
