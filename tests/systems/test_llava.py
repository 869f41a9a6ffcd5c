"""LLaVA: exact counts of all sizes and stages, fixtures, pictures beside texts, packing, generation, layouts."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import systems
from mmjax.commands import golden, models
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.types import total
from mmjax.data import rows as data_rows
from mmjax.data.chat import Row
from mmjax.decoders.generate import generate
from mmjax.decoders.settings import Settings
from mmjax.nn.patch import normalise
from mmjax.systems.llava import STAGES
from mmjax.train.accumulate import cached_value_and_grad
from mmjax.weights import files, lora, surgery

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IMG = {"image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
LLM = {"vocab": 40, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 20, "kv_heads": 1}
TINY = {"name": "llava", "img": IMG, "llm": LLM, "newline": True, "dtype": "float32", "end_ids": (3,)}


@pytest.mark.parametrize(
    ("size", "count", "stage", "trainable"),
    [
        ("v1_7b", 7_045_793_792, "align", 4_198_400),
        ("v1_13b", 13_324_292_096, "align", 5_248_000),
        ("v1_5_7b", 7_062_902_784, "align", 20_979_712),
        ("v1_5_7b", 7_062_902_784, "instruct", 6_759_395_328),
        ("v1_5_13b", 13_350_839_296, "align", 31_467_520),
        ("v1_5_13b", 13_350_839_296, "instruct", 13_047_331_840),
        ("next_vicuna_7b", 7_062_906_880, "next_instruct", 7_062_906_880),
        ("next_vicuna_13b", 13_350_844_416, "next_instruct", 13_350_844_416),
        ("next_mistral_7b", 7_566_223_360, "align", 20_979_712),
        ("next_yi_34b", 34_751_166_464, "align", 58_734_592),
        ("next_llama3_8b", 8_354_752_512, "align", 20_979_712),
    ],
)
def test_parameters_of_the_published_sizes(size, count, stage, trainable):
    model = systems.build({"name": "llava", "size": size, "scan": True, "dtype": "float32"})
    made = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), model.example(1))
    params = shd.unbox(made)["params"]
    assert trees.count(params) == count
    kept = [
        leaf.size
        for path, leaf in trees.flatten(params).items()
        if any(re.fullmatch(pattern, path) for pattern in STAGES[stage])
    ]
    assert sum(kept) == trainable


@pytest.mark.parametrize("fixture", ["clip_vit_l/a", "mistral/a", "llava15/a", "llava_next_original/a"])
def test_fixtures(fixture):
    results = golden.run_fixture(GOLDEN / fixture)
    assert results and all(result.passed for result in results), [r.line() for r in results if not r.passed]


def init(config=TINY, seed=0):
    model = systems.build(config)
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.example(2))
    params = shd.unbox(jax.jit(lambda b: model.init(jax.random.key(seed), b, train=False))(batch))["params"]
    rng = np.random.default_rng(seed)  # zeros and ones would hide a wrong mapping
    return model, jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), params)


def test_the_likelihood_of_the_last_tokens_is_that_of_the_logits():
    model, params = init()
    rng = np.random.default_rng(2)
    lengths, answers = (9, 6, 3), (1, 3, 2)  # the last row is all answer but its first token
    valid = np.arange(9)[None] < np.array(lengths)[:, None]
    named = valid & (np.arange(9)[None] >= (np.array(lengths) - np.array(answers))[:, None])
    named[0, 8] = False  # something that is not weighed stands behind the answer
    named[0, 7] = True
    batch = {"ids": rng.integers(4, 40, (3, 9)).astype(np.int32), "valid": valid, "mask_loss": named}
    logits = jax.jit(functools.partial(model.apply, method="logits"))({"params": params}, batch)
    each = np.asarray(jax.nn.log_softmax(logits))
    wanted = [sum(each[b, t - 1, batch["ids"][b, t]] for t in np.flatnonzero(named[b])) for b in range(3)]
    for most in (3, 20):  # more than there are changes nothing, not even more than the row has
        made = jax.jit(lambda p, b, most=most: model.apply({"params": p}, b, most, method="likelihood"))(params, batch)
        np.testing.assert_allclose(made["log"], wanted, atol=1e-4)
        assert made["count"].tolist() == [1, 3, 2]


def made_rows(count=3):
    """Rows of a picture and a few tokens, and one of tokens alone; pictures are whole views with a newline."""
    rng, rows = np.random.default_rng(1), []
    for n in range(count):
        pictures = int(n != 1)
        ids = np.concatenate([[1], np.zeros(pictures), rng.integers(4, 40, 4 + n)]).astype(np.int32)
        image = np.where(ids == 0, 0, -1).astype(np.int32)
        rows.append(Row(ids, np.arange(len(ids)) >= len(ids) - 3, image))
    return rows


def batch_of(rows, views=1):
    newline = views * 4
    pictures = [[np.append(np.arange(4), newline).astype(np.int32)] * int((row.image >= 0).any()) for row in rows]
    made = [data_rows.spliced(row, slots, newline + 1) for row, slots in zip(rows, pictures, strict=True)]
    rng = np.random.default_rng(2)
    image = rng.normal(size=(len(rows), views, 8, 8, 3)).astype(np.float32)
    return made, {**data_rows.stacked(made), "image": image}


def test_pictures_are_seen_where_they_stand_and_nowhere_else():
    model, params = init()
    _, batch = batch_of(made_rows())
    run = jax.jit(lambda b: model.apply({"params": params}, b, method="logits"))
    x = np.asarray(run(batch))
    other = np.asarray(run({**batch, "image": batch["image"] * -1}))
    assert np.abs(other[1] - x[1]).max() == 0 and np.abs(other[0, 1:] - x[0, 1:]).max() > 1e-3
    np.testing.assert_array_equal(other[0, :1], x[0, :1])
    text = {key: value[1:2, :6] for key, value in batch.items() if key not in ("image", "slot")}
    np.testing.assert_allclose(
        np.asarray(model.apply({"params": params}, text, method="logits")), x[1:2, :6], atol=1e-5
    )


def test_a_packed_row_has_the_gradient_of_its_samples():
    model, params = init()
    rows, batch = batch_of(made_rows())
    length = sum(map(len, rows)) + 2
    made, groups = data_rows.packed(rows, length, [4, 4, 4], 12)
    assert groups == [[0, 1, 2]]
    packed = {**data_rows.stacked(made, length), "image": batch["image"].swapaxes(0, 1)}
    packed["sample"] = data_rows.samples(groups, rows, length)

    def loss(params, batch):
        return total(model.apply({"params": params}, batch, train=False, method="losses"))

    one, two = (jax.jit(jax.value_and_grad(loss))(params, b) for b in (batch, packed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), one, two)


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_in_parts_is_that_of_the_whole(tied):
    config = {**TINY, "llm": {**LLM, "tied": tied}}
    model, params = init(config)
    _, batch = batch_of(made_rows())
    batch["mask_loss"][0, np.flatnonzero(batch["mask_loss"][0])[:2]] = False  # rows learn other numbers of tokens

    def loss(model, params):
        return total(model.apply({"params": params}, batch, train=True, method="losses"))

    whole = jax.jit(jax.value_and_grad(functools.partial(loss, model)))(params)
    chunked = systems.build({**config, "loss_chunk": 3})
    parts = jax.jit(jax.value_and_grad(functools.partial(loss, chunked)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), whole, parts)

    def rows_of(params, batch, _):
        return chunked.apply({"params": params}, batch, train=True, method="features")

    def mean(params, rows):
        return total(chunked.apply({"params": params}, rows, method="objective")), None

    (value, _), grads = jax.jit(cached_value_and_grad(rows_of, mean, 3))(params, batch, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), whole, (value, grads))
    assert batch["mask_loss"].sum(axis=1).tolist() == [1, 3, 3]  # the mean is not that of the rows' means
    shapes = jax.eval_shape(lambda b: chunked.init(jax.random.key(0), b), batch)
    assert trees.flatten(shd.unbox(shapes)["params"]).keys() == trees.flatten(params).keys()
    with pytest.raises(UserError, match="loss_chunk = -1; valid: places at a time, or 0 for all"):
        systems.build({**config, "loss_chunk": -1})


LORA = {"rank": 3, "alpha": 6.0, "dropout": 0.2}


@pytest.mark.parametrize("scan", [False, True])
def test_adapters_begin_as_nothing_and_can_be_put_into_their_maps(scan):
    config = {**TINY, "scan": scan, "llm": {**LLM, "lora": {**LORA, "maps": ["q", "v", "fc2"]}}}
    model = systems.build(config)
    _, batch = batch_of(made_rows())
    params = shd.unbox(model.init(jax.random.key(0), batch, train=False))["params"]
    flat = trees.flatten(params)
    adapters = {path for path in flat if "_lora/" in path}
    assert {path.split("/")[-3] for path in adapters} == {"q_lora", "v_lora", "fc2_lora"}
    assert len(adapters) == 6 * (1 if scan else 2) and all(path.startswith("llm/") for path in adapters)
    plain = systems.build({**config, "llm": LLM})
    base = trees.unflatten({path: array for path, array in flat.items() if path not in adapters})
    one, two = (np.asarray(m.apply({"params": p}, batch, method="logits")) for m, p in ((model, params), (plain, base)))
    np.testing.assert_array_equal(one, two)

    def loss(adapters, key, train):
        p = trees.unflatten({**flat, **adapters})
        return total(model.apply({"params": p}, batch, train=train, method="losses", rngs={"dropout": key}))

    rng = np.random.default_rng(0)
    trained = {path: jnp.asarray(rng.normal(size=flat[path].shape), jnp.float32) for path in sorted(adapters)}
    grads = jax.grad(loss)(trained, jax.random.key(1), True)
    assert all(float(jnp.abs(grad).max()) > 0 for grad in grads.values())
    assert loss(trained, jax.random.key(1), True) != loss(trained, jax.random.key(2), True)
    whole = {"params": trees.unflatten({**flat, **trained})}
    system, merged, count = lora.merged(config, whole)
    assert count == 3 * (1 if scan else 2) and "lora" not in system["llm"]
    assert trees.flatten(merged["params"]).keys() == trees.flatten(base).keys()
    wanted = np.asarray(model.apply(whole, batch, method="logits"))
    np.testing.assert_allclose(np.asarray(plain.apply(merged, batch, method="logits")), wanted, atol=2e-4, rtol=1e-4)
    assert np.abs(wanted - one).max() > 0.01
    for wrong in ({"rank": 0, "alpha": 1.0}, {"rank": 2, "alpha": 1.0, "maps": ["w"]}):
        with pytest.raises(UserError, match="lora: "):
            systems.build({**config, "llm": {**LLM, "lora": wrong}})


def test_writing_with_a_cache_is_as_without():
    model, params = init()
    _, batch = batch_of(made_rows())
    texts = jax.jit(lambda b: generate(model, {"params": params}, b, Settings(max_new=4)))(batch)
    for n in range(3):
        length, start = int(texts.length[n]), int(texts.prompt[n])
        assert start == batch["valid"][n].sum() and start < length <= start + 4
        ids = np.array(texts.ids[n : n + 1, :length])
        slot = np.pad(batch["slot"][n : n + 1, :start], ((0, 0), (0, length - start)), constant_values=-1)
        whole = {"ids": ids, "valid": np.ones_like(ids, bool), "slot": slot, "image": batch["image"][n : n + 1]}
        logits = np.asarray(model.apply({"params": params}, whole, method="logits"))[0]
        assert logits.argmax(-1)[start - 1 : length - 1].tolist() == ids[0, start:].tolist()


@pytest.mark.parametrize(
    ("cls", "keep", "count", "first"), [(True, False, 4, 1), (True, True, 5, 0), (False, False, 4, 0)]
)
def test_of_a_tower_all_patches_are_seen_and_its_class_token_if_it_stays(cls, keep, count, first):
    img = {**IMG, "cls": cls, "pool": "none", "norm_post": "none"}
    model, params = init({**TINY, "img": img, "keep_cls": keep, "newline": False})
    assert model.view_states == count
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 8, 8, 3), np.uint8)
    seen = np.asarray(model.apply({"params": params}, image, method="see"))
    assert seen.shape == (1, 2 * count, 24)

    def states(model, image):
        tapped = model.img(normalise(image, model.mean, model.std)).tapped
        return model.projector(tapped[0])

    alone = np.asarray(model.apply({"params": params}, image[0], method=states))
    np.testing.assert_allclose(seen[0], alone[:, first:].reshape(-1, 24), atol=1e-6)


@pytest.mark.parametrize("fixture", ["llava15/a", "llava_next_original/a", "mistral/a"])
def test_there_and_back(fixture, tmp_path):
    loaded = surgery.load(GOLDEN / fixture, models.shapes)
    surgery.export(loaded.variables, loaded.system, loaded.origin.layout, tmp_path, origin=loaded.origin)
    one, two = (files.open_tensors(folder) for folder in (GOLDEN / fixture, tmp_path))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one.read(key), two.read(key)) for key in one.keys())  # noqa: SIM118 - no mapping
    assert files.read_json(tmp_path / "config.json") == files.read_json(GOLDEN / fixture / "config.json")
    other = {"hf": "llava", "llava": "hf"}.get(loaded.origin.layout)
    if loaded.system["name"] == "llava":
        surgery.export(loaded.variables, loaded.system, other, tmp_path / "other", origin=loaded.origin)
        again = surgery.load(tmp_path / "other", models.shapes)
        vocab, more = loaded.system["llm"]["vocab"], int(other == "hf")  # which has a token for pictures besides
        assert again.system == {**loaded.system, "llm": {**loaded.system["llm"], "vocab": vocab + more}}
        for path, array in trees.flatten(again.variables).items():
            array = array[:vocab] if path.endswith("llm/embed/embedding") else array
            array = array[:, :vocab] if path.endswith("llm/head/kernel") else array
            np.testing.assert_array_equal(array, trees.flatten(loaded.variables)[path], err_msg=path)
        config = files.read_json(tmp_path / "other" / "config.json")
        assert config.get("image_token_index") == (vocab if more else None)
