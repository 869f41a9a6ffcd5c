"""The losses against numbers of another implementation."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmjax.core.errors import UserError
from mmjax.losses.fixtures import LOSSES, run_loss


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_golden(name, golden):
    folder = golden / "losses" / name
    task = json.loads((folder / "meta.json").read_text())["tasks"][name]
    stored = load_file(folder / "io.safetensors")
    config = json.loads((folder / "config.json").read_text())
    got = run_loss(config["loss"], {key: stored[f"{name}/in/{key}"] for key in task["inputs"]})
    assert set(got) == set(task["outputs"])
    for key, value in got.items():
        want = stored[f"{name}/out/{key}"]
        assert value.shape == want.shape
        assert value.dtype == want.dtype
        np.testing.assert_allclose(value, want, rtol=0, atol=task["tolerance"], err_msg=key)


def test_any_size():
    draw = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    inputs = {"image_features": draw[0], "text_features": draw[1], "logit_scale": np.float32(1.5)}
    out = run_loss("clip_softmax", inputs)
    assert out["grad_text_features"].shape == (5, 3)
    np.testing.assert_allclose(out["grad_log_logit_scale"], 1.5 * out["grad_logit_scale"], rtol=1e-6)


def test_mistakes_are_named():
    features = np.ones((2, 3), np.float32)
    with pytest.raises(UserError, match=r"'hinge'.*clip_softmax, siglip"):
        run_loss("hinge", {})
    with pytest.raises(UserError, match=r"takes .*logit_bias; got image_features"):
        run_loss("siglip", {"image_features": features, "text_features": features, "logit_scale": np.float32(1.0)})
