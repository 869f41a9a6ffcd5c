"""`mmjax plan` end to end, without a compiler but for one small case."""

import json
import pathlib

import numpy as np
import pytest

from mmjax import cli
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.plan import advice, topology

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CLIP = CONFIGS / "clip"


def run(capsys, *words):
    code = cli.main(["plan", *words])
    return code, capsys.readouterr()


def test_paper_config_on_a_pod(capsys):
    config = str(CLIP / "vit_l14_336.py")
    code, said = run(capsys, "--config", config, "--topology", "v5p:8x8x8", "--compile", "never", "--json")
    found = json.loads(said.out)
    (stage,) = found["stages"]
    assert code == 0 and found["fits"] and found["devices"] == 512
    assert stage["count"]["trainable"] == 427_944_193 and stage["mesh"] == {"data": 64, "fsdp": 8, "tensor": 1}
    assert stage["bytes"]["optimizer"] == pytest.approx(2 * 4 * 427_944_193 / 8, rel=0.05)  # some divide by no 8
    assert stage["bytes"]["batch"] == 64 * (336 * 336 * 3 + 77 * 5)
    # 24 layers of 1024 at 577 tokens, 12 of 768 at 77; patches; forward and twice that backward.
    forward = 24 * (24 * 577 * 1024**2 + 4 * 577**2 * 1024) + 12 * (24 * 77 * 768**2 + 4 * 77**2 * 768)
    forward += 2 * 576 * 14 * 14 * 3 * 1024
    assert stage["flops"]["model"] == pytest.approx(3 * 32_768 * forward, rel=0.01)
    assert 1.2 < stage["flops"]["executed"] / stage["flops"]["model"] < 4 / 3
    assert stage["flops"]["a_device"] == pytest.approx(stage["flops"]["executed"] / 512, rel=1e-3)
    assert {"all-gather", "all-reduce", "permute"} <= set(stage["collectives"])


@pytest.mark.slow
def test_what_does_not_fit_gets_advice(capsys):
    words = ["--config", str(CLIP / "vit_l14_336.py"), "--topology", "h100:8", "--compile", "never"]
    code, said = run(capsys, *words)
    assert code == 0 and "DOES NOT FIT" in said.out
    advice = said.out.partition("what would change it")[2]
    assert "chunks=64" in advice and "batch_size=16384" in advice and " fits " in advice


def test_a_config_of_another_system(capsys):
    """CoCa's tiny form: Adafactor keeps two moments of a parameter of few rows or columns."""
    words = ["--config", f"{CONFIGS}/coca/base.py:smoke", "--topology", "v5e:2x2", "--compile", "never", "--json"]
    code, said = run(capsys, *words)
    found = json.loads(said.out)
    (stage,) = found["stages"]
    assert code == 0 and found["fits"] and stage["batch_size"] == 16 and stage["dtype"] == "bfloat16"
    parameters = 4 * stage["count"]["trainable"]
    assert stage["bytes"]["parameters"] == parameters
    assert parameters < stage["bytes"]["optimizer"] < 2.1 * parameters
    # A device has 4 of the 16 examples; its image tower alone: 2 blocks of width 32 and mlp 64 on 16 patches.
    image = 3 * 2 * 4 * (2 * 16 * (4 * 32**2 + 2 * 32 * 64) + 4 * 16**2 * 32)
    assert image < stage["flops"]["a_device"] < 20 * image
    assert stage["flops"]["a_device"] == pytest.approx(stage["flops"]["executed"] / 4, rel=0.01)  # nothing repeated


@pytest.mark.parametrize(
    ("file", "has", "lacks"),
    [
        ("clip/demo.py", {"system.remat=full", "system.loss_form=ring", "stages.train.chunks=4"}, set()),
        ("coca/base.py:smoke", {"mesh.fsdp=2", "stages.train.chunks=4"}, set()),
        ("vlmo/base.py:smoke", {"mesh.fsdp=2"}, {"loss_form"}),
        ("vqkd/base_3.py:smoke", {"mesh.fsdp=2"}, {"loss_form", "chunks"}),
        ("albef/pretrain_4m.py:smoke", {"system.remat=full"}, {"loss_form", "chunks"}),
    ],
)
def test_advice_is_what_the_system_has(file, has, lacks):
    config = configs.plain(configs.load(str(CONFIGS / file), []))
    stage = next(iter(config["stages"]))
    words = [words for words, _ in advice.changes(config, stage, topology.parse("v5e:2x2"))]
    assert has <= set(words)
    assert not [word for word in words if any(part in word for part in lacks)]


@pytest.mark.parametrize("mesh", [{"data": 1, "fsdp": -1}, {"data": -1}, {"data": -1, "fsdp": 2}])
def test_meshes_that_are_advised_can_be_made(mesh):
    config = configs.plain(configs.load(f"{CLIP / 'vit_b32.py'}:smoke", [])) | {"mesh": mesh}
    found = {words: one["mesh"] for words, one in advice.changes(config, "train", topology.parse("h100:8"))
             if words.startswith("mesh.")}  # fmt: skip
    assert "mesh.tensor=2" in {words.split()[0] for words in found}
    assert all(np.prod(shd.mesh_sizes(one, 8)) == 8 for one in found.values())
    now = shd.mesh_sizes(mesh, 8)
    assert all(shd.mesh_sizes(one, 8) != now for one in found.values())


def test_what_there_is_no_time_for_is_named():
    config = configs.plain(configs.load(f"{CLIP / 'vit_b32.py'}:smoke", []))
    found = advice.try_changes(config, "train", topology.parse("cpu:2"), usable=1, margin=1.0, deadline=0.0)
    assert len(found) > 3 and all("not tried" in change["error"] for change in found)


@pytest.mark.slow
def test_the_cpu_compiler_is_asked(capsys):
    words = ["--config", f"{CLIP / 'vit_b32.py'}:smoke", "--topology", "cpu:2", "--compile", "always", "--json"]
    code, said = run(capsys, *words)
    (stage,) = json.loads(said.out)["stages"]
    assert code == 0 and stage["memory_source"] == "XLA's CPU compiler"
    held = sum(size for name, size in stage["bytes"].items() if name not in ("temporaries", "gradients"))
    assert stage["compiled"]["arguments"] == pytest.approx(held, rel=0.001)
    assert stage["peak"] > stage["compiled"]["arguments"] and stage["compiled"]["collectives"]["all-reduce"] > 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--topology", "v5e:16"], "v5e:4x4"),
        (["--topology", "t4:8", "--compile", "always"], "no compiler for t4:8"),
        (["--topology", "cpu:3", "--config.mesh.fsdp=2"], "there are 3"),
        (["--topology", "cpu:3", "--config.mesh.fsdp=1"], "does not divide over 3 devices"),
    ],
)
def test_mistakes(words, part, capsys):
    code, said = run(capsys, "--config", f"{CLIP / 'vit_b32.py'}:smoke", *words)
    assert code == 2 and part in said.err and said.err.count("\n") == 1
