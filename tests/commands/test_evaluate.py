import argparse
import json
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax import cli, systems
from mmjax.commands import evaluate as command
from mmjax.commands import models
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks
from mmjax.data.example import BadExample
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import open_tokenizer
from mmjax.evals.base import Predictor
from mmjax.train import checkpoint

TINY = {
    "name": "clip",
    "embed_dim": 8,
    "img": {"image_size": 32, "patch": 16, "width": 16, "depth": 2, "heads": 2},
    "txt": {"vocab": 49408, "length": 16, "width": 16, "depth": 2, "heads": 2},
}
EVALS = {
    "found": {"kind": "retrieval", "data": "emoji:test", "limit": 12, "resamples": 0},
    "named": {"kind": "zeroshot", "data": "emoji:test", "limit": 12, "resamples": 0},
}
HELD_OUT = "emoji:test?style=fluent"


@pytest.fixture(scope="module")
def variables() -> dict:
    batch = {"image": jnp.zeros((1, 32, 32, 3), jnp.uint8), "ids": jnp.zeros((1, 16), jnp.int32),
             "valid": jnp.ones((1, 16), bool)}  # fmt: skip
    return nn.unbox(jax.jit(systems.build(TINY).init)(jax.random.key(0), batch))


@pytest.fixture(scope="module")
def saved(variables, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("saved")
    checkpoint.save_model(path, TINY, variables, tokenizer=open_tokenizer("clip_bpe"), config={"evals": EVALS})
    return path


def evaluate(path: pathlib.Path, *more: str) -> dict[str, float]:
    out = path.parent / "metrics.json"
    out.unlink(missing_ok=True)
    assert cli.main(["eval", "--checkpoint", str(path), "--batch-size", "16", "--json", str(out), *more]) == 0
    return json.loads(out.read_text())


def recall(images: np.ndarray, texts: np.ndarray, k: int) -> float:
    """Recall of the text of the same number, written out."""
    scores = images @ texts.T
    return float(np.mean([(row > row[i]).sum() < k for i, row in enumerate(scores)]))


def test_numbers(saved, variables, capsys):
    """Recall of names, from embeddings made without any of the command's parts but the tokenizer."""
    metrics = evaluate(saved, "--data", HELD_OUT, "--gallery", HELD_OUT, "--limit", "5000", "--name", "held out")
    source = open_source(HELD_OUT)
    model = systems.build(TINY)
    pictures = [Image.fromarray(source[i]["images"][0]) for i in range(len(source))]
    white = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB") for p in pictures]
    images = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.BICUBIC)) for p in white])
    ids, valid = open_tokenizer("clip_bpe").batch([source[i]["labels"]["en"] for i in range(len(source))], 16)
    apply = jax.jit(model.apply, static_argnames="method")
    img = np.asarray(apply(variables, images, method="embed_image"))
    txt = np.asarray(apply(variables, ids, valid, method="embed_text"))
    for k in (1, 5, 10):
        assert metrics[f"held out/image_to_text_R@{k}"] == pytest.approx(recall(img, txt, k), abs=2.5 / len(source))
        lo, hi = metrics[f"held out/image_to_text_R@{k}_lo"], metrics[f"held out/image_to_text_R@{k}_hi"]
        assert lo <= metrics[f"held out/image_to_text_R@{k}"] <= hi
    printed = capsys.readouterr().out
    assert "held out/text_to_image_R@10" in printed and "chance: held out/text_to_image_R@10" in printed


def test_evaluators_of_the_config(saved):
    both, one = evaluate(saved), evaluate(saved, "--evaluators", "named")
    assert {name.split("/")[0] for name in both} == {"found", "named"}
    assert {name.split("/")[0] for name in one} == {"named"} and one.items() <= both.items()


def test_zeroshot_options(saved, tmp_path):
    options = ["--metric", "zeroshot", "--data", HELD_OUT, "--limit", "20", "--resamples", "0"]
    plain = evaluate(saved, *options)
    assert set(plain) == {f"emoji:test/{metric}" for metric in ("top1", "top5", "mean_per_class")}
    assert len(evaluate(saved, *options, "--per-class")) == len(plain) + 20
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(reversed(open_source(HELD_OUT).class_names())))
    with_names = evaluate(saved, *options, "--classes", str(names), "--label", "label")
    assert set(with_names) == set(plain)


def test_linear_probe(saved, tmp_path, capsys):
    """Pictures of two styles to fit, of a third to test: the table, the numbers and the figures."""
    options = ["--metric", "linear_probe", "--resamples", "50", "--name", "probe", "--limit", "24"]
    got = evaluate(saved, *options, "--data", HELD_OUT, "--train-data", "emoji:test", "--features", "unit",
                   "--out", str(tmp_path / "out"))  # fmt: skip
    assert {"probe/top1", "probe/top1_lo", "probe/top5", "probe/mean_per_class", "probe/log10_l2",
            "probe/top1_validation", "probe/top1_train"} <= set(got)  # fmt: skip
    assert got["probe/top1_train"] > got["probe/top1"] >= 0 and -6 <= got["probe/log10_l2"] <= 6
    assert "most frequent class: probe/top1" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"report.html", "metrics.json", "report.json", "probe_sweep.png", "probe_confusion.png",
                     "probe_classes.png"}  # fmt: skip


def test_folders_of_classes(saved, tmp_path, capsys):
    """Sub-folders are classes; those of the test folder count by their names; what cannot be read is named."""
    rng = np.random.default_rng(0)
    for part, colours in (("train", ("blue", "green", "red")), ("test", ("green", "red"))):
        for colour in colours:
            (tmp_path / part / colour).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 40, (40, 40, 3), np.uint8)
                pixels[:, :, ("red", "green", "blue").index(colour)] += 200
                Image.fromarray(pixels).save(tmp_path / part / colour / f"{i}.png")
    (tmp_path / "test" / "red" / "6.png").write_text("<html>")
    data = ["--data", f"folder:{tmp_path}/test", "--name", "n", "--resamples", "0"]
    got = evaluate(saved, *data, "--metric", "linear_probe", "--train-data", f"folder:{tmp_path}/train", "--per-class")
    assert (got["n/top1"], got["n/class/green"], got["n/class/red"]) == (1, 1, 1) and "n/class/blue" not in got
    error = capsys.readouterr().err
    assert "1 left out (not an image 1)\n  12: not an image" in error
    (tmp_path / "names.txt").write_text("something green\nsomething red\n")
    assert "n/top1" in evaluate(saved, *data, "--metric", "zeroshot", "--classes", str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert cli.main(["eval", "--checkpoint", str(saved), *data, "--metric", "zeroshot", "--classes",
                     str(tmp_path / "names.txt")]) == 2  # fmt: skip
    assert "the source has 2 classes (green, red), and 3 names are given" in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["retrieval", "zeroshot"])
def test_figures_and_json(metric, saved, tmp_path):
    """The figures are pictures, the numbers those of a run without figures, the page holds what it shows."""
    options = ["--metric", metric, "--data", HELD_OUT, "--limit", "12", "--resamples", "0", "--name", "n"]
    out = tmp_path / "a" / "b"
    assert evaluate(saved, *options, "--out", str(out)) == evaluate(saved, *options)
    assert json.loads((out / "metrics.json").read_text()) == evaluate(saved, *options)
    parts = {"retrieval": {"similarity", "best", "random", "worst", "recall"}, "zeroshot": {"confusion", "classes"}}
    figures = sorted(out.glob("*.png"))
    assert {path.name for path in figures} == {f"n_{part}.png" for part in parts[metric]}
    for path in figures:
        with Image.open(path) as picture:
            assert min(picture.size) > 200 and len(np.unique(np.asarray(picture.convert("L")))) > 10
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures) and "chance" in page


def test_examples_that_cannot_be_used_are_told(saved, monkeypatch, capsys):
    source = open_source(HELD_OUT)

    class Damaged:
        name = "damaged"

        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index in (1, 4):
                raise BadExample("corrupt image", f"{index}.png")
            return source[index]

    monkeypatch.setattr("mmjax.inputs.open_source", lambda spec: Damaged())
    assert evaluate(saved, "--data", "damaged", "--resamples", "0")["damaged/image_to_text_R@10"] == 1
    assert "damaged: 2 left out (corrupt image 2)\n  1: corrupt image: 1.png\n" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["hf", "openai", "open_clip"])
def test_published_layouts_give_the_same_numbers(layout, saved, tmp_path):
    """The exported checkpoint has neither config nor tokenizer of ours: CLIP's own is taken."""
    published = tmp_path / layout
    try:
        models.save(models.load(saved), layout, published)
    except UserError as error:  # OpenAI's archives imply 64 channels per head
        assert layout == "openai" and "head" in str(error)
        return
    options = ["--data", HELD_OUT, "--limit", "20", "--resamples", "0"]
    ours, theirs = evaluate(saved, *options), evaluate(published, *options)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(theirs.values()), list(ours.values()), atol=0.051)  # a tie may fall otherwise


def test_scanned_blocks(saved, variables, tmp_path):
    """What is trained with scanned layers evaluates to the same embeddings."""
    checkpoint.save_model(tmp_path / "scanned", {**TINY, "scan": True, "remat": "full", "loss_form": "ring"},
                          stack_blocks(variables), tokenizer=open_tokenizer("clip_bpe"))  # fmt: skip
    texts = ["a red car", "grinning face"]
    one, other = mmjax.load(saved), mmjax.load(tmp_path / "scanned")
    np.testing.assert_allclose(one.embed_text(texts), other.embed_text(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "3"], "--limit: this describes an evaluator, which needs --data"),
        (["--name", "a"], "--name: this describes"),
        (["--metric", "zeroshot"], "--metric: this describes"),
        (["--data", "emoji", "--metric", "linear_probe"], "needs the option ['train_data']"),
        (["--data", "emoji", "--train-data", "emoji"], "has no option ['train_data']"),
        (["--data", "emoji", "--metric", "zeroshot", "--label", "colour"], "has no 'colour'; its keys are"),
        (["--data", "emoji", "--metric", "zeroshot", "--classes", "none.txt"], "'none.txt' is not a file"),
        (["--out", __file__], "is a file; give a directory"),
        (["--data", "emoji", "--evaluators", "found"], "give one of the two"),
        (["--evaluators", "fond"], "--evaluators fond: the checkpoint's config has found, named"),
        (["--data", "emojo"], "emojo"),
        (["--data", "emoji", "--metric", "zero"], "'zero' is not one of"),
        (["--data", "emoji", "--metric", "zeroshot", "--gallery", "emoji"], "has no option ['gallery']"),
        (["--data", "emoji", "--batch-size", "0"], "--batch-size 0"),
        (["--data", "emoji", "--step", "7"], "no complete step 7"),
        (["--json", "/nowhere/at/all.json"], "there is no directory /nowhere/at"),
        (["--tokenizer", "word"], "word"),
    ],
)
def test_mistakes(more, message, saved, capsys):
    assert cli.main(["eval", "--checkpoint", str(saved), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmjax eval: ") and message in error and "Traceback" not in error


def test_no_evaluator_and_no_tokenizer(variables, golden, tmp_path, capsys):
    checkpoint.save_model(tmp_path, TINY, variables)
    assert cli.main(["eval", "--checkpoint", str(tmp_path)]) == 2
    assert "has no tokenizer; give its spec" in capsys.readouterr().err
    assert cli.main(["eval", "--checkpoint", str(tmp_path), "--tokenizer", "clip_bpe"]) == 2
    assert "names no evaluator; make one with --data" in capsys.readouterr().err
    tiny = golden / "clip" / "hf_a"  # 99 words: CLIP's tokenizer would read past its table
    assert cli.main(["eval", "--checkpoint", str(tiny), "--data", "emoji", "--tokenizer", "clip_bpe"]) == 2
    assert "vocab = 99, but the tokenizer has 49408 ids" in capsys.readouterr().err


def test_load(saved, tmp_path):
    """mmjax.load takes pictures of every kind to the same embedding, and is what the predictor gives."""
    model = mmjax.load(saved, batch_size=8)
    sprite = open_source("emoji:test")[0]["images"][0]
    picture = Image.fromarray(sprite)
    picture.save(tmp_path / "sprite.png")
    picture.quantize(64).save(tmp_path / "palette.png")
    rows = model.embed_image([sprite, picture, tmp_path / "sprite.png", str(tmp_path / "sprite.png")])
    assert rows.shape == (4, 8) and (rows == rows[0]).all()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    alone = Predictor(model.module, model.variables, batch_size=1).embed_image(model.tools.preprocess(sprite)[None])
    np.testing.assert_allclose(rows[:1], alone, atol=1e-5)
    assert np.abs(model.embed_image([tmp_path / "palette.png"]) - alone).max() < 0.3
    grey = model.embed_image([Image.new("L", (50, 40), 128), np.full((40, 50, 3), 128, np.uint8)])
    np.testing.assert_array_equal(grey[0], grey[1])

    plain, prompted = model.embed_text(["a cat", "a dog"]), model.embed_text(["a cat"], ["{}", "a photo of {}"])
    assert plain.shape == (2, 8)
    parts = model.embed_text(["a cat", "a photo of a cat"]).sum(axis=0)
    np.testing.assert_allclose(prompted[0], parts / np.linalg.norm(parts), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("one.png", "put it in a list"), ([], "at least one"), (["missing.png"], "missing.png")],
)
def test_load_refuses(wrong, message, saved):
    with pytest.raises(UserError, match=message):
        mmjax.load(saved).embed_image(wrong)


def test_importing_mmjax_stays_quick():
    code = "import sys, mmjax; print(sorted({'jax', 'flax', 'numpy', 'PIL'} & set(sys.modules)), callable(mmjax.load))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def spec_of(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.own_spec(parser.parse_args(["--checkpoint", "x", *words]))


def test_options_of_any_kind_are_json_or_text() -> None:
    spec = spec_of("--data", "d", "--metric", "rerank", "--option", "nearest=64", "--option", "score=match+cosine")
    assert spec == {"kind": "rerank", "data": "d", "nearest": 64, "score": "match+cosine"}
    for words, said in ((("--option", "nearest=64"), "--option: this describes an evaluator"),
                        (("--data", "d", "--option", "nearest"), "KEY=VALUE"),
                        (("--data", "d", "--option", "data=e"), "each key once")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            spec_of(*words)
