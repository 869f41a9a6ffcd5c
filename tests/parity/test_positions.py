"""Resized text positions against open_clip's own function, and the linear map against torch's interpolate."""

import types

import numpy as np
import pytest

from mmjax.core.interpolate import linear_matrix
from mmjax.weights import positions

pytestmark = pytest.mark.parity
SIZES = [(77, 64), (64, 77), (77, 248), (77, 16), (7, 12), (16, 35), (5, 1), (1, 4)]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_linear(before: int, after: int) -> None:
    import torch

    unit = torch.eye(before, dtype=torch.float64)[None]  # [1, channels, length]
    theirs = torch.nn.functional.interpolate(unit, size=after, mode="linear", align_corners=False)[0].numpy().T
    np.testing.assert_allclose(linear_matrix(before, after), theirs, atol=1e-12)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_text_positions(before: int, after: int) -> None:
    import torch
    from open_clip.model import resize_text_pos_embed

    table = np.random.default_rng(0).normal(size=(before, 8)).astype(np.float32)
    state = {"positional_embedding": torch.from_numpy(table.copy())}
    resize_text_pos_embed(state, types.SimpleNamespace(positional_embedding=torch.zeros(after, 8)))
    system = {"name": "clip", "img": {"image_size": 16, "patch": 8}, "txt": {"length": before}}
    ours = positions.resize(system, {"params": {"txt": {"pos": table}}}, None, after)[1]["params"]["txt"]["pos"]
    assert ours.dtype == np.float32 and ours.shape == (after, 8)
    np.testing.assert_allclose(ours, state["positional_embedding"].numpy(), atol=1e-5)
