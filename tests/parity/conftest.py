"""torchvision, which open_clip and transformers import if it is there, has no build for torch's CPU wheels."""

import importlib.metadata

import pytest


@pytest.fixture(autouse=True, scope="session")
def torchvision_operators():
    """Declares the operators whose absence stops torchvision's import; none of them is used here.

    torchvision's wheel of the package index is built for CUDA. Beside a CPU build of torch its compiled half cannot be
    loaded, which it bears, but then it registers shape functions for two operators of that half, which it does not.
    """
    import torch

    if torch.version.cuda is not None or "+cpu" in importlib.metadata.version("torchvision"):
        yield
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield library
