"""Archives that torch writes, read by the reader that runs nothing."""

import pathlib

import numpy as np
import pytest

from mmjax.commands import models
from mmjax.core import trees
from mmjax.weights import files
from mmjax.weights.pickle_safe import TorchArchive

pytestmark = pytest.mark.parity


def same(archive: TorchArchive, state: dict) -> None:
    assert archive.keys() == sorted(state)
    for key, value in state.items():
        assert archive.shape(key) == tuple(value.shape)
        assert np.array_equal(archive.read(key).astype(np.float32), value.float().numpy()), key


def module():
    import torch

    torch.manual_seed(0)
    parts = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    parts.append(torch.nn.Linear(4, 5).half())
    parts.register_buffer("mask", torch.ones(2, 3).t())
    return parts


def test_state_dicts_modules_and_wrappings(tmp_path: pathlib.Path) -> None:
    import torch

    made = module()
    state = made.state_dict() | {"brain": torch.arange(3).bfloat16(), "view": torch.arange(12).reshape(3, 4)[1:, ::2]}
    torch.save(state, tmp_path / "state.pt")
    same(TorchArchive(tmp_path / "state.pt"), state)
    training = {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(training, tmp_path / "training.pt")
    same(TorchArchive(tmp_path / "training.pt"), state)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript(tmp_path: pathlib.Path) -> None:
    import torch

    made = module().eval()
    made[3].float()
    torch.jit.trace(made, torch.zeros(1, 3, 3, 3)).save(tmp_path / "traced.pt")
    same(TorchArchive(tmp_path / "traced.pt"), made.state_dict())
    torch.jit.script(made).save(tmp_path / "scripted.pt")
    same(TorchArchive(tmp_path / "scripted.pt"), made.state_dict())


@pytest.mark.parametrize("name", ["openai_vit_a", "openai_rn_a"])
def test_an_openai_archive_needs_no_config(name: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import torch

    tensors = files.open_tensors(golden / "clip" / name)
    state = {key: torch.from_numpy(np.asarray(tensors.read(key))) for key in tensors.keys()}  # noqa: SIM118
    torch.save(state, tmp_path / "model.pt")
    ours, reference = models.load(tmp_path / "model.pt"), models.load(golden / "clip" / name)
    assert ours.system == reference.system
    one, other = trees.flatten(ours.variables), trees.flatten(reference.variables)
    assert one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)
