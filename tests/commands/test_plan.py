"""`mmjax plan` end to end, without a compiler but for one small case."""

import json
import pathlib

import pytest

from mmjax import cli

CLIP = pathlib.Path(__file__).parents[2] / "configs" / "clip"


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
