import argparse
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from mmjax import model
from mmjax.commands import convert, models
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.interpolate import bicubic_resize
from mmjax.core.stacking import stack_blocks
from mmjax.data.tokenizers import Gemma, SentencePiece
from mmjax.weights import files, siglip_config
from tests.data import gemma_files

LAYOUT = {"hf_a": "hf", "openai_vit_a": "openai", "openai_rn_a": "openai"}
LAYOUT |= dict.fromkeys(("open_clip_a", "open_clip_b", "open_clip_c", "open_clip_d"), "open_clip")


def run(source: pathlib.Path, output: pathlib.Path, layout: str, *more: str) -> pathlib.Path:
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    arguments = ["--input", str(source), "--output", str(output), "--layout", layout, *more]
    assert convert.run(parser.parse_args(arguments)) == 0
    return output


def same_tensors(one: pathlib.Path, other: pathlib.Path) -> None:
    a, b = (safetensors.numpy.load_file(folder / files.WEIGHTS) for folder in (one, other))
    assert a.keys() == b.keys()
    for key, array in a.items():
        assert array.dtype == b[key].dtype and array.shape == b[key].shape and array.tobytes() == b[key].tobytes(), key


@pytest.mark.parametrize("name", LAYOUT)
def test_through_an_mmjax_checkpoint_and_back(name: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "clip" / name
    ours = run(source, tmp_path / "ours", "mmjax")
    back = run(ours, tmp_path / "back", LAYOUT[name])
    same_tensors(source, back)
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "through"),
    [("openai_vit_a", "hf"), ("openai_vit_a", "open_clip"), ("openai_rn_a", "open_clip"), ("hf_a", "open_clip")],
)
def test_through_another_layout_and_back(name: str, through: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "clip" / name
    there = run(source, tmp_path / "there", through)
    same_tensors(source, run(there, tmp_path / "back", LAYOUT[name]))
    one, other = models.load(source).system, models.load(there).system
    assert one == other


@pytest.mark.parametrize("layout", ["hf", "llava"])
def test_a_decoders_tokenizer_goes_along(layout: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = SentencePiece.train(
        ["a red circle", "a blue square", "what is it ?"], 60, byte_fallback=False, model_type="bpe"
    )
    made = models.load(golden / "llava15" / "a")._replace(tokenizer=words)
    models.save(made, layout, tmp_path / "saved")
    back = models.load(tmp_path / "saved")
    found = models.tokenizer_of(back)
    assert found is not None and found.digest == words.digest and back.system == made.system
    np.testing.assert_array_equal(back.variables["params"]["llm"]["embed"]["embedding"],
                                  made.variables["params"]["llm"]["embed"]["embedding"])  # fmt: skip
    (tmp_path / "saved" / "tokenizer_config.json").write_text('{"padding_side": "left"}')  # as published: for batches
    assert models.load(tmp_path / "saved").system == made.system
    with pytest.raises(UserError, match="system llava cannot be grown: it has no text tower"):
        models.grow_vocab(made, 200)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept(dtype: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "half"
    source.mkdir()
    tensors = safetensors.numpy.load_file(golden / "clip" / "openai_rn_a" / files.WEIGHTS)
    half = {key: array.astype(dtype) if array.ndim > 1 else array for key, array in tensors.items()}
    half["visual.bn1.num_batches_tracked"] = np.array(12_345)
    files.write_safetensors(source / files.WEIGHTS, half)
    (source / "config.json").write_text((golden / "clip" / "openai_rn_a" / "config.json").read_text())
    model = models.load(source)
    assert {leaf.dtype for leaf in trees.flatten(model.variables).values()} == {np.dtype("float32")}
    there = run(source, tmp_path / "ours", "mmjax")
    same_tensors(source, run(there, tmp_path / "back", "openai"))
    same_tensors(source, run(run(source, tmp_path / "a", "open_clip"), tmp_path / "b", "openai"))


SYSTEMS = {
    "small": {"image_size": 24, "patch": 6, "width": 20, "depth": 1, "heads": 5, "act": "gelu", "mlp_dim": 36},
    "sigmoid": {"image_size": 16, "patch": 8, "width": 32, "depth": 2, "heads": 2, "norm_pre": False,
                "act": "gelu_tanh"},
    "resnet": {"kind": "resnet", "image_size": 32, "layers": [2, 1, 1, 2], "width": 8, "heads": 4},
    "scaled": {"image_size": 16, "patch": 8, "width": 16, "depth": 2, "heads": 2, "layer_scale": 0.1, "act": "gelu"},
    "mean": {"image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2, "pool": "mean", "norm_post": "all",
             "act": "gelu"},
}  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_random_models_of_other_sizes(name: str, tmp_path: pathlib.Path) -> None:
    act = "gelu" if name != "resnet" else "quick_gelu"
    txt = {"vocab": 61, "length": 7, "width": 12, "depth": 2, "heads": 3, "act": act, "eps": 1e-6, "mlp_dim": 31}
    system = {"name": "clip", "embed_dim": 10, "img": SYSTEMS[name], "txt": txt}
    system |= {"loss": "sigmoid"} if name == "sigmoid" else {}
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    model = models.Model(system, trees.unflatten(flat), "mmjax", None, None, None, "")
    models.save(model, "mmjax", tmp_path / "ours")
    there = run(tmp_path / "ours", tmp_path / "there", "open_clip")
    loaded = models.load(there)
    again = trees.flatten(loaded.variables)
    assert again.keys() == flat.keys() and all(np.array_equal(again[path], flat[path]) for path in flat)
    assert models.shapes(loaded.system) == models.shapes(system)
    assert loaded.system["img"].get("norm_pre", True) == SYSTEMS[name].get("norm_pre", True)
    assert loaded.system["txt"] == txt


def test_stacked_blocks_are_unstacked(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "clip" / "hf_a"
    model = models.load(source)
    stacked = model._replace(variables=stack_blocks(model.variables), system=model.system | {"scan": True})
    assert "blocks" in stacked.variables["params"]["img"]["transformer"]
    models.save(stacked, "hf", tmp_path / "back")
    same_tensors(source, tmp_path / "back")


@pytest.mark.parametrize(("name", "antialias"), [("hf_a", False), ("openai_vit_a", True)])
def test_another_image_size(name: str, antialias: bool, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "clip" / name
    resized = run(source, tmp_path / "resized", LAYOUT[name], "--image-size", "48")
    before, after = models.load(source).variables["params"]["img"]["pos"], models.load(resized)
    assert after.system["img"]["image_size"] == 48
    width = before.shape[1]
    grid = bicubic_resize(before[1:].reshape(4, 4, width), (6, 6), antialias=antialias)
    expected = np.concatenate([before[:1], np.asarray(grid).reshape(36, width)])
    np.testing.assert_array_equal(after.variables["params"]["img"]["pos"], expected)
    with pytest.raises(UserError, match="not a multiple of 8"):
        models.load(source, image_size=50)


@pytest.mark.parametrize(
    ("name", "layout", "end"),
    [
        ("hf_a", "hf", ("text_config", "eos_token_id", 98)),
        ("openai_vit_a", "hf", ("text_config", "eos_token_id", 98)),
        ("openai_vit_a", "open_clip", ("text_cfg", "eos_id", 98)),
        ("open_clip_a", "open_clip", ("text_cfg", "eos_id", 89)),
        ("openai_vit_a", "mmjax", None),
    ],
)
def test_a_larger_vocabulary(
    name: str, layout: str, end: tuple[str, str, int] | None, golden: pathlib.Path, tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The old rows stay, the new ones are their mean, and texts end where they ended: not at the largest id now."""
    source = golden / "clip" / name
    before = models.load(source)
    rows = before.system["txt"]["vocab"]
    there = run(source, tmp_path / "there", layout, "--grow-vocab", str(rows + 3))
    after, said = models.load(there), f"{rows} rows -> {rows + 3}, the new ones the mean of the old ones"
    assert said in capsys.readouterr().out and said in (there / "README.md").read_text()
    assert after.system == {**before.system, "txt": {**before.system["txt"], "vocab": rows + 3}}
    old, new = (trees.flatten(model.variables) for model in (before, after))
    table, grown = (each.pop("params/txt/embed/embedding") for each in (old, new))
    np.testing.assert_array_equal(grown[:rows], table)
    np.testing.assert_allclose(grown[rows:], np.repeat(table.mean(0, keepdims=True), 3, 0), atol=1e-6)
    assert old.keys() == new.keys() and all(np.array_equal(old[path], new[path]) for path in old)
    if end:
        section, key, number = end
        assert json.loads((there / "config.json").read_text())[section][key] == number
    if layout == "mmjax":  # the publisher's config, which is kept in it, does not win over the change
        again = run(there, tmp_path / "again", "open_clip")
        assert json.loads((again / "config.json").read_text())["text_cfg"]["eos_id"] == 98
        assert models.load(again).system["txt"]["vocab"] == rows + 3


def test_vocabularies_that_cannot_be(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = golden / "clip" / "openai_vit_a"
    with pytest.raises(UserError, match="a vocabulary of 98: the checkpoint's has 99 tokens"):
        run(source, tmp_path / "out", "hf", "--grow-vocab", "98")
    with pytest.raises(UserError, match="texts end in 98, and it reads them at their largest id, 101"):
        run(source, tmp_path / "out", "openai", "--grow-vocab", "102")
    assert not list(tmp_path.iterdir())
    same_tensors(source, run(source, tmp_path / "out", "openai", "--grow-vocab", "99"))


def test_the_tokenizer_stays_when_the_vocabulary_grows(tmp_path: pathlib.Path) -> None:
    """CLIP's own, which is told by the size of its vocabulary; and the end token that transformers needs, behind it."""
    txt = {"vocab": models.CLIP_VOCAB, "length": 7, "width": 4, "depth": 1, "heads": 1, "act": "quick_gelu"}
    img = {"image_size": 16, "patch": 8, "width": 64, "depth": 1, "heads": 1, "act": "quick_gelu"}
    system = {"name": "clip", "embed_dim": 4, "img": img, "txt": txt}
    flat = {path: np.ones(shape, np.float32) for path, shape in models.shapes(system).items()}
    models.save(models.Model(system, trees.unflatten(flat), "mmjax", None, None, None, ""), "openai", tmp_path / "it")
    ours = models.load(run(tmp_path / "it", tmp_path / "ours", "mmjax", "--grow-vocab", "49410"))
    words = models.tokenizer_of(ours)
    assert words is not None and words.vocab_size == models.CLIP_VOCAB
    there = run(tmp_path / "it", tmp_path / "there", "hf", "--grow-vocab", "49410")
    config = json.loads((there / "config.json").read_text())["text_config"]
    assert (config["vocab_size"], config["eos_token_id"]) == (49410, 49407) and (there / "vocab.json").is_file()


def test_an_end_token_of_its_own_comes_behind_the_tokenizers(tmp_path: pathlib.Path) -> None:
    words = SentencePiece.train(["a red cat", "two blue dogs", "a photo of a green tree"], 280)
    assert words.eos_id == models.HF_LARGEST
    words.save(tmp_path / "words")
    txt = {"vocab": 280, "length": 7, "width": 8, "depth": 1, "heads": 2}
    img = {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
    system = {"name": "clip", "embed_dim": 4, "img": img, "txt": txt}
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    model = models.Model(system, trees.unflatten(flat), "mmjax", None, tmp_path / "words", None, "")
    for rows, expected in ((280, 281), (283, 283)):
        models.save(models.grow_vocab(model, rows), "hf", tmp_path / str(rows))
        there = models.load(tmp_path / str(rows))
        table = there.variables["params"]["txt"]["embed"]["embedding"]
        assert len(table) == expected and np.array_equal(table[280], flat["params/txt/embed/embedding"][2])
        assert json.loads((tmp_path / str(rows) / "config.json").read_text())["text_config"]["eos_token_id"] == 280


def test_old_position_ids_survive(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    tensors = safetensors.numpy.load_file(golden / "clip" / "hf_a" / files.WEIGHTS)
    tensors["text_model.embeddings.position_ids"] = np.arange(16)[None]
    tensors["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    files.write_safetensors(source / files.WEIGHTS, tensors)
    (source / "config.json").write_text((golden / "clip" / "hf_a" / "config.json").read_text())
    assert "older versions stored" in models.load(source).account
    same_tensors(source, run(run(source, tmp_path / "ours", "mmjax"), tmp_path / "back", "hf"))


def test_nothing_is_overwritten(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, output = golden / "clip" / "hf_a", tmp_path / "out"
    output.mkdir()
    (output / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; --force"):
        run(source, output, "mmjax")
    assert (output / "precious.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"img\.heads"):  # a layout that cannot hold it: the output stays
        run(source, output, "openai", "--force")
    assert (output / "precious.txt").exists()
    run(source, output, "mmjax", "--force")
    assert not (output / "precious.txt").exists()
    with pytest.raises(UserError, match="is or holds the input"):
        run(output, tmp_path, "hf", "--force")


def test_no_checkpoint(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "out", "hf")
    with pytest.raises(UserError, match="holds no weights"):
        (tmp_path / "empty").mkdir()
        run(tmp_path / "empty", tmp_path / "out", "hf")


WORDS = ["a red circle", "a blue square on the left", "two green triangles", "a photo of a cat and a dog"] * 3


def siglip2(folder: pathlib.Path) -> pathlib.Path:
    """A tiny random SigLIP 2 as it is published."""
    words = Gemma.read(gemma_files.write(folder / "words", WORDS))
    words.save(folder / "saved")
    tower = {"depth": 1, "heads": 2, "act": "gelu_tanh", "eps": 1e-6, "mlp_dim": 32, "width": 16}
    img, txt = {"image_size": 16, "patch": 8, **siglip_config.IMG, **tower}, {**siglip_config.TXT, **tower}
    system = {"name": "clip", "embed_dim": 16, "img": img, "txt": {"vocab": words.vocab_size, "length": 64, **txt}}
    system |= {**siglip_config.SYSTEM, "mean": [0.5] * 3, "std": [0.5] * 3}
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}
    made = models.Model(system, trees.unflatten(flat), "mmjax", None, folder / "saved", None, "made for a test")
    models.save(made, "hf", folder / "published")
    gemma_files.write(folder / "published", WORDS)
    path = folder / "published" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 2}))
    return folder / "published"


def test_siglip_2_with_its_tokenizer_and_resampling(tmp_path: pathlib.Path) -> None:
    source = siglip2(tmp_path)
    ours = run(source, tmp_path / "ours", "mmjax")
    again = run(ours, tmp_path / "again", "hf")
    same_tensors(source, again)
    texts, rng = ["A red CIRCLE", "a red circle", "a blue square"], np.random.default_rng(1)
    picture = rng.integers(0, 256, (40, 30, 3), np.uint8)
    first, *others = (model.load(folder) for folder in (source, ours, again))
    rows = first.embed_text(texts)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - rows[2]).max() > 0.01
    for other in others:
        np.testing.assert_array_equal(other.embed_text(texts), rows)
        np.testing.assert_array_equal(other.embed_image([picture]), first.embed_image([picture]))
    path = source / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 3}))
    assert np.abs(model.load(source).embed_image([picture]) - first.embed_image([picture])).max() > 1e-4
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 1}))
    with pytest.raises(UserError, match=r"resample = 1 is not supported; supported: 2 \(bilinear\), 3 \(bicubic\)"):
        models.load(source)


def test_a_tokenizer_that_pads_on_the_left_unless_told(tmp_path: pathlib.Path) -> None:
    source = siglip2(tmp_path)
    gemma_files.write(source, WORDS, padding_side=None)
    with pytest.raises(UserError, match="padding_side = 'left'"):
        models.load(source)
