"""DeiT, AugReg's ViT and BERT as they are published, into the towers of ALBEF and BLIP, value by value."""

import json
import pathlib
import re

import numpy as np
import pytest

from mmjax import checks, initial, main, systems
from mmjax.commands import models
from mmjax.core import config as configs
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import unstack_blocks
from mmjax.weights import files, surgery
from tests.beginning import Arrays, begun, compare, recipe
from tests.torch_files import archive, chain

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
WIDTH, MLP, BLOCKS = 64, 96, 2  # of the image tower: one head, as timm's heads are 64 wide
TEXT, TEXT_MLP, LAYERS, VOCAB, LENGTH = 16, 20, 3, 11, 7
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": VOCAB, "hidden_size": TEXT,
        "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": TEXT_MLP,
        "max_position_embeddings": LENGTH, "type_vocab_size": 2, "hidden_act": "gelu"}  # fmt: skip
IMG = {"image_size": 16, "patch": 8, "width": WIDTH, "depth": BLOCKS, "heads": 1, "mlp_dim": MLP}
TXT = {"vocab": VOCAB, "length": LENGTH, "width": TEXT, "depth": LAYERS, "heads": 2, "mlp_dim": TEXT_MLP}
ALBEF = {"name": "albef", "task": "pretrain", "embed_dim": 4, "queue": 8, "mask_id": 4, "img": IMG,
         "txt": {**TXT, "cross_from": 1}}  # fmt: skip
BLIP = {"name": "blip", "task": "pretrain", "embed_dim": 4, "queue": 8, "img": IMG,
        "txt": {**TXT, "vocab": VOCAB + 2}}  # fmt: skip


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def deit() -> Arrays:
    """A state dict by timm's names, with its classifier."""
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 5, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, 8, 8),
              "patch_embed.proj.bias": (WIDTH,)}  # fmt: skip
    for i in range(BLOCKS):
        block = f"blocks.{i}"
        shapes |= linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", MLP, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, MLP)
        shapes |= {f"{block}.norm{n}.{leaf}": (WIDTH,) for n in (1, 2) for leaf in ("weight", "bias")}
    shapes |= {f"norm.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}
    return drawn(shapes | linear("head", 5, WIDTH), 1)


def of_deit(state: Arrays) -> Arrays:
    """Our image tower."""
    ours = {"img/cls": state["cls_token"][0, 0], "img/pos": state["pos_embed"][0],
            "img/patch/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
            "img/patch/bias": state["patch_embed.proj.bias"]}  # fmt: skip
    ours |= {"img/norm_post/scale": state["norm.weight"], "img/norm_post/bias": state["norm.bias"]}
    for i in range(BLOCKS):
        old, new = f"blocks.{i}", f"img/transformer/block_{i}"
        for n, part in enumerate("qkv"):
            rows = slice(n * WIDTH, (n + 1) * WIDTH)
            ours[f"{new}/attn/{part}/kernel"] = state[f"{old}.attn.qkv.weight"][rows].T
            ours[f"{new}/attn/{part}/bias"] = state[f"{old}.attn.qkv.bias"][rows]
        for theirs, mine in (("attn.proj", "attn/out"), ("mlp.fc1", "mlp/fc1"), ("mlp.fc2", "mlp/fc2")):
            ours[f"{new}/{mine}/kernel"] = state[f"{old}.{theirs}.weight"].T
            ours[f"{new}/{mine}/bias"] = state[f"{old}.{theirs}.bias"]
        for n in (1, 2):
            ours[f"{new}/norm{n}/scale"] = state[f"{old}.norm{n}.weight"]
            ours[f"{new}/norm{n}/bias"] = state[f"{old}.norm{n}.bias"]
    return ours


def augreg(heads: int) -> Arrays:
    """The arrays of a `.npz` by Flax's names, with its classifier."""
    wide = (heads, WIDTH // heads)
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, WIDTH), "Transformer/posembed_input/pos_embedding": (1, 5, WIDTH),
        "embedding/kernel": (8, 8, 3, WIDTH), "embedding/bias": (WIDTH,), "head/kernel": (WIDTH, 5),
        "head/bias": (5,), "Transformer/encoder_norm/scale": (WIDTH,), "Transformer/encoder_norm/bias": (WIDTH,),
    }  # fmt: skip
    for i in range(BLOCKS):
        block = f"Transformer/encoderblock_{i}"
        shapes |= {f"{block}/LayerNorm_{n}/{leaf}": (WIDTH,) for n in (0, 2) for leaf in ("scale", "bias")}
        for part in ("query", "key", "value"):
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (WIDTH, *wide)
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = wide
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (*wide, WIDTH)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (WIDTH,)
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (WIDTH, MLP), f"{block}/MlpBlock_3/Dense_0/bias": (MLP,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (MLP, WIDTH), f"{block}/MlpBlock_3/Dense_1/bias": (WIDTH,)}
    return drawn(shapes, 2)


def bert(prefix: str = "bert.", head: bool = True) -> Arrays:
    """A state dict of `BertForPreTraining`, or of `BertModel`, by today's names."""
    shapes = {f"{prefix}embeddings.{name}_embeddings.weight": (rows, TEXT)
              for name, rows in (("word", VOCAB), ("position", LENGTH), ("token_type", 2))}  # fmt: skip
    norms = [f"{prefix}embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"{prefix}encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", TEXT, TEXT)
        shapes |= linear(f"{layer}.intermediate.dense", TEXT_MLP, TEXT)
        shapes |= linear(f"{layer}.output.dense", TEXT, TEXT_MLP)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes |= linear(f"{prefix}pooler.dense", TEXT, TEXT)
    if head:
        shapes |= linear("cls.predictions.transform.dense", TEXT, TEXT) | linear("cls.seq_relationship", 2, TEXT)
        shapes["cls.predictions.bias"] = (VOCAB,)
        norms.append("cls.predictions.transform.LayerNorm")
    shapes |= {f"{norm}.{leaf}": (TEXT,) for norm in norms for leaf in ("weight", "bias")}
    state = drawn(shapes, 3)
    if head:
        state["cls.predictions.decoder.weight"] = state[f"{prefix}embeddings.word_embeddings.weight"]
    return state


def of_layer(state: Arrays, number: int, prefix: str = "bert.") -> Arrays:
    """A layer of BERT by our names below its block."""
    old, ours = f"{prefix}encoder.layer.{number}", {}
    for theirs, mine in (("attention.self.query", "attn/q"), ("attention.self.key", "attn/k"),
                         ("attention.self.value", "attn/v"), ("attention.output.dense", "attn/out"),
                         ("intermediate.dense", "mlp/fc1"), ("output.dense", "mlp/fc2")):  # fmt: skip
        ours |= {f"{mine}/kernel": state[f"{old}.{theirs}.weight"].T, f"{mine}/bias": state[f"{old}.{theirs}.bias"]}
    for theirs, mine in (("attention.output", "norm1"), ("output", "norm2")):
        ours[f"{mine}/scale"] = state[f"{old}.{theirs}.LayerNorm.weight"]
        ours[f"{mine}/bias"] = state[f"{old}.{theirs}.LayerNorm.bias"]
    return ours


def of_bert_besides(state: Arrays) -> Arrays:
    """Our text tower without its layers."""
    words, head = "bert.embeddings", "cls.predictions"
    return {
        "txt/embed/embedding": state[f"{words}.word_embeddings.weight"],
        "txt/pos": state[f"{words}.position_embeddings.weight"],
        "txt/types": state[f"{words}.token_type_embeddings.weight"],
        "txt/norm/scale": state[f"{words}.LayerNorm.weight"],
        "txt/norm/bias": state[f"{words}.LayerNorm.bias"],
        "txt/head/dense/kernel": state[f"{head}.transform.dense.weight"].T,
        "txt/head/dense/bias": state[f"{head}.transform.dense.bias"],
        "txt/head/norm/scale": state[f"{head}.transform.LayerNorm.weight"],
        "txt/head/norm/bias": state[f"{head}.transform.LayerNorm.bias"],
        "txt/head_bias": state[f"{head}.bias"],
    }


def old_names(state: Arrays) -> Arrays:
    """As the published files of BERT name the parameters of norms."""
    norms = {".weight": ".gamma", ".bias": ".beta"}
    pattern = re.compile(r"(?<=LayerNorm)(\.weight|\.bias)$")
    return {pattern.sub(lambda match: norms[match[0]], key): array for key, array in state.items()}


def store_bert(folder: pathlib.Path, state: Arrays, form: str = "safetensors", config: dict | None = None) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BERT if config is None else config))
    if "bin" in form:
        (chain if form == "old bin" else archive)(folder / files.BIN, state)
    else:
        files.write_safetensors(folder / files.WEIGHTS, state)
    return str(folder)


@pytest.fixture
def published(tmp_path: pathlib.Path) -> tuple[str, str]:
    """(DeiT's file with its wrapper, BERT's folder)."""
    archive(tmp_path / "deit.pth", deit(), under="model")
    return str(tmp_path / "deit.pth"), store_bert(tmp_path / "bert", bert())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin"])
def test_albef_begins_with_deit_and_bert(old: bool, form: str, tmp_path: pathlib.Path) -> None:
    state = bert()
    archive(tmp_path / "deit.pth", deit(), under="model")
    folder = store_bert(tmp_path / "bert", old_names(state) if old else state, form)
    init = recipe("albef").towers(str(tmp_path / "deit.pth"), folder, below=1, depth=LAYERS)
    found, random, account = begun(init, ALBEF)
    expected = of_deit(deit()) | of_bert_besides(state)
    for number, block in ((0, "text/block_0"), (1, "fusion/block_0"), (2, "fusion/block_1")):
        expected |= {f"txt/{block}/{name}": array for name, array in of_layer(state, number).items()}
    compare(found, random, expected)
    left = {path.split("/")[3] for path in found if path.startswith("txt/") and path not in expected}
    assert left == {"cross", "norm_cross"}
    assert "(timm)" in account and "not needed: head.weight, head.bias: a classifier of its training's" in account
    assert "bert.pooler.dense.bias" in account and "cls.seq_relationship.bias" in account
    assert re.search(r"left at random: img_proj 2 .*, itm_head 2 .*, tau 1 .*, txt 20 ", account)


def test_blip_begins_with_bert_in_both_modes(published: tuple[str, str]) -> None:
    state = bert()
    found, random, account = begun(recipe("blip").towers(*published), BLIP)
    expected = of_deit(deit()) | of_bert_besides(state)
    del expected["txt/types"]
    words, bias = (found[path] for path in ("txt/embed/embedding", "txt/head_bias"))
    np.testing.assert_array_equal(words[:VOCAB], expected["txt/embed/embedding"])
    new = words[VOCAB:] - expected["txt/embed/embedding"].mean(axis=0)[None]
    assert 0 < np.abs(new).max() < 0.1 and not np.array_equal(new[0], new[1])  # the noise
    np.testing.assert_array_equal(bias, [*state["cls.predictions.bias"], 0, 0])
    for i in range(LAYERS):
        layer = of_layer(state, i)
        expected |= {f"txt/fusion/block_{i}/{name}": array for name, array in layer.items()}
        both = {re.sub("^(attn|norm1)/", r"\1_dec/", name): array for name, array in layer.items()}
        expected |= {f"txt/fusion/block_{i}/{name}": array for name, array in both.items()}
    compare(found, random, expected | {"txt/embed/embedding": words, "txt/head_bias": bias})
    assert f"params/txt/embed/embedding: {VOCAB} rows -> {VOCAB + 2}" in account
    assert f"params/txt/head_bias: {VOCAB} entries -> {VOCAB + 2}, the new ones 0" in account


@pytest.mark.parametrize("heads", [1, 4])
def test_augregs_arrays(heads: int, tmp_path: pathlib.Path) -> None:
    state = augreg(heads)
    np.savez(tmp_path / "L_16.npz", **state)
    system = {**BLIP, "img": {**IMG, "heads": heads}}
    found, random, account = begun([{"path": str(tmp_path / "L_16.npz"), "load": ("img/.*",)}], system)
    expected = {"img/cls": state["cls"][0, 0], "img/pos": state["Transformer/posembed_input/pos_embedding"][0]}
    names = {"embedding": "patch", "Transformer/encoder_norm": "norm_post"}
    for i in range(BLOCKS):
        old, new = f"Transformer/encoderblock_{i}", f"transformer/block_{i}"
        attention = f"{old}/MultiHeadDotProductAttention_1"
        for theirs, mine in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            for leaf, shape in (("kernel", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
                expected[f"img/{new}/attn/{mine}/{leaf}"] = state[f"{attention}/{theirs}/{leaf}"].reshape(shape)
        names |= {f"{old}/LayerNorm_0": f"{new}/norm1", f"{old}/LayerNorm_2": f"{new}/norm2"}
        names |= {f"{old}/MlpBlock_3/Dense_{n}": f"{new}/mlp/fc{n + 1}" for n in (0, 1)}
    for theirs, mine in names.items():
        for leaf in ("kernel", "scale", "bias"):
            if f"{theirs}/{leaf}" in state:
                expected[f"img/{mine}/{leaf}"] = state[f"{theirs}/{leaf}"]
    assert {path for path in found if path.startswith("img/")} == set(expected)
    compare(found, random, expected)
    assert "head/kernel, head/bias" in account and "GELU by the error function" in account
    with pytest.raises(UserError, match=r"img.heads: \d there, 2 here"):
        begun({"path": str(tmp_path / "L_16.npz"), "load": ("img/.*",)}, {**BLIP, "img": {**IMG, "heads": 2}})


def test_larger_images_and_shorter_texts(published: tuple[str, str]) -> None:
    """The grid is resized, the class token's position and the first positions of texts are kept."""
    system = {**ALBEF, "img": {**IMG, "image_size": 32}, "txt": {**ALBEF["txt"], "length": 5}}
    init = recipe("albef").towers(*published, below=1, depth=LAYERS)
    found, _, account = begun(init, system)
    np.testing.assert_array_equal(found["txt/pos"], of_bert_besides(bert())["txt/pos"][:5])
    assert found["img/pos"].shape == (17, WIDTH)
    np.testing.assert_array_equal(found["img/pos"][0], deit()["pos_embed"][0, 0])
    assert "grid 2x2 -> 4x4, bicubic without antialias" in account and "the first 5 of 7 tokens" in account
    with pytest.raises(UserError, match="texts of 9 tokens, but bert has 7 positions"):
        begun(init, {**ALBEF, "txt": {**ALBEF["txt"], "length": 9}})


def test_a_bert_without_heads_and_prefix(tmp_path: pathlib.Path) -> None:
    state = bert("", head=False)
    state["embeddings.position_ids"] = np.arange(LENGTH)[None]
    loaded = surgery.load(store_bert(tmp_path, state), models.shapes)
    flat = trees.flatten(loaded.variables["params"])
    assert flat.keys() == {path.removeprefix("params/") for path in models.shapes(loaded.system)}
    assert not any("head" in path for path in flat) and loaded.system["txt"]["depth"] == LAYERS
    for name, array in of_layer(state, 2, "").items():
        np.testing.assert_array_equal(flat[f"txt/text/block_2/{name}"], array)


def test_mistakes(published: tuple[str, str], tmp_path: pathlib.Path) -> None:
    image, text = published
    with pytest.raises(UserError, match=r"params/txt/embed/embedding: \(11, 16\) for \(13, 16\).*grow_vocab"):
        begun([{"path": text, "skip": ("txt/types",), "rename": {"txt/text/(.*)": r"txt/fusion/\1"}}], BLIP)
    with pytest.raises(UserError, match=r"unused \['params/txt/types'\]"):
        begun([{"path": text, "grow_vocab": True, "rename": {"txt/text/(.*)": r"txt/fusion/\1"}}], BLIP)
    archive(tmp_path / "more.pth", {**deit(), "blocks.0.gamma_1": np.ones(WIDTH, np.float32)}, under="model")
    with pytest.raises(UserError, match=r"not known to this layout \(1\):\n    blocks.0.gamma_1"):
        models.load(tmp_path / "more.pth")
    archive(tmp_path / "less.pth", {k: v for k, v in deit().items() if k != "norm.bias"}, under="model")
    with pytest.raises(UserError, match=r"missing \(1\):\n    norm.bias"):
        models.load(tmp_path / "less.pth")
    archive(tmp_path / "two.pth", {**deit(), "dist_token": np.ones((1, 1, WIDTH), np.float32)}, under="model")
    with pytest.raises(UserError, match=r"two\.pth: a distilled DeiT"):
        models.load(tmp_path / "two.pth")
    with pytest.raises(UserError, match="'vit' is a tower alone"):
        models.save(models.load(image), "hf", tmp_path / "out")
    with pytest.raises(UserError, match=r"config\.system\.name = 'bert': a tower alone"):
        checks.check_config({"seed": 0, "system": {"name": "bert"}, "tokenizer": {"spec": "x"}, "data": {"train": "x"},
                             "stages": {"s": {}}})  # fmt: skip
    with pytest.raises(UserError, match=r"is_decoder = True \(supported: False\)"):
        models.load(store_bert(tmp_path / "causal", bert(), config={**BERT, "is_decoder": True}))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"cut.npz cannot be read as an .npz file"):
        models.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(UserError, match=r"objects.npz cannot be read as an .npz file"):
        models.load(tmp_path / "objects.npz")


B16 = {"image_size": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12}
L16 = {"image_size": 224, "patch": 16, "width": 1024, "depth": 24, "heads": 16}
PUBLISHED = {
    "deit_base_patch16_224-b5f2ef4d.pth": {"name": "vit", "img": B16},
    "L_16.npz": {"name": "vit", "img": L16},
    "bert-base-uncased": {"name": "bert", "txt": {"vocab": 30522, "length": 512, "width": 768, "depth": 12, "heads": 12,
                                                  "lm_head": True}},
}  # fmt: skip
# timm's and transformers' own counts, without classifier and pooler
COUNTS = dict(zip(PUBLISHED, (85_798_656, 303_301_632, 109_514_298), strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_the_published_towers(name: str) -> None:
    assert sum(int(np.prod(shape)) for shape in models.shapes(PUBLISHED[name]).values()) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("albef/pretrain_4m", ()),
        pytest.param("blip/pretrain_14m", (), marks=pytest.mark.slow),
        ("blip/pretrain_129m", ("--config.system.size=large_pretrain_224", "--config.init[0].path=L_16.npz")),
    ],
)
def test_the_recipes_fill_all_that_the_towers_hold(
    name: str, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the papers' sizes, by shapes alone."""
    monkeypatch.setattr(models, "read_system", PUBLISHED.__getitem__)
    config = configs.plain(configs.load(CONFIGS / f"{name}.py", changes))
    mesh = shd.make_mesh(None)
    with shd.use_mesh(mesh):
        _, boxed, _ = main.abstract_variables(systems.build(config["system"]), config, mesh)
    abstract = shd.unbox(boxed)
    given = initial.given(config, abstract)
    left = set(trees.flatten(unstack_blocks(abstract["params"]))) - given
    assert {path.split("/")[0] for path in left} == {"img_proj", "txt_proj", "itm_head", "tau", "txt"}
    assert {path.split("/")[3] for path in left if path.startswith("txt/")} == {"cross", "norm_cross"}
    assert configs.plain(configs.load(CONFIGS / f"{name}.py", ["--config.init=()"]))["init"] == []
