import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.commands import golden as fixtures
from mmjax.commands import models
from mmjax.core import sharding, trees
from mmjax.core.errors import UserError
from mmjax.core.types import total
from mmjax.decoders.generate import generate
from mmjax.decoders.settings import Settings
from mmjax.systems import build
from mmjax.systems.beit3_sizes import STAGES
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.state import begin
from mmjax.train.step import train_step
from mmjax.weights import files, surgery

TOKENIZER = {
    "img": {"image_size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2},
    "decoder": {"width": 16, "depth": 1, "heads": 2},
    "codes": 12,
    "code_dim": 4,
    "target": 8,
    "kmeans": False,
}
TINY = {
    "name": "beit3",
    "tasks": ("mdm",),
    "width": 16,
    "depth": 2,
    "heads": 2,
    "codes": 12,
    "img": {"image_size": 16, "patch": 4},
    "txt": {"vocab": 40, "length": 6, "mask_id": 39},
}
B = 8
BATCH = {
    "image": jax.random.randint(jax.random.key(0), (B, 16, 16, 3), 0, 256).astype(jnp.uint8),
    "ids": jax.random.randint(jax.random.key(1), (B, 6), 5, 39),
    "valid": jnp.arange(6)[None] < jnp.array([6, 5, 4, 6, 3, 6, 5, 6])[:, None],
}
# Counted on the released code: size, task, pixels, all parameters.
PUBLISHED = [
    ("base", (), 224, 220_987_392),
    ("base", (), 384, 221_279_232),
    ("base", (), 480, 221_528_064),
    ("large", (), 224, 672_702_464),
    ("large", (), 768, 674_861_056),
    ("base", ("retrieval",), 224, 222_167_041),
    ("large", ("retrieval",), 384, 675_188_737),
    ("base", ("caption",), 480, 270_751_754),
    ("large", ("caption",), 480, 739_033_610),
    ("base", ("vqa",), 480, 228_110_649),
    ("large", ("vqa",), 768, 684_423_225),
    ("base", ("nlvr2",), 224, 225_719_810),
    ("large", ("nlvr2",), 224, 681_109_506),
    ("base", ("mdm",), 224, 276_510_730),
    ("large", ("mdm",), 224, 746_709_514),
]


def shapes(config):
    system = build({**config, "scan": True})
    return nn.meta.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1, 8)))["params"]


def make(system, batch=BATCH):
    found = trees.flatten(nn.meta.unbox(jax.eval_shape(system.init, jax.random.key(0), batch)))
    rng = np.random.default_rng(0)
    fill = lambda k, s: rng.normal(1.0 * k.endswith(("/scale", "ready")), 0.2, s.shape)  # noqa: E731
    return trees.unflatten({k: jnp.asarray(fill(k, s), jnp.float32) for k, s in found.items()})


@pytest.mark.parametrize(
    ("size", "tasks", "pixels", "count"),
    [
        pytest.param(*row, marks=pytest.mark.slow if row[0] == "large" and row[1] != ("mdm",) else ())
        for row in PUBLISHED
    ],
)
def test_published_sizes_have_exactly_the_published_parameters(size, tasks, pixels, count):
    config = {"name": "beit3", "size": size, "tasks": tasks, "img": {"image_size": pixels}}
    assert trees.count(shapes(config)) == count


def test_the_papers_giant():
    """§2.1, table 2: V- and L-FFN 692M each, VL-FFN 52M, shared attention 317M, 1.9B in all with embeddings."""
    found = shapes({"name": "beit3", "size": "giant", "tasks": ()})
    flat = {path: int(np.prod(leaf.shape)) for path, leaf in trees.flatten(found).items()}
    of = lambda part: sum(n for path, n in flat.items() if f"/{part}/" in path)  # noqa: E731
    millions = {part: round(of(part) / 1e6) for part in ("mlp_img", "mlp_txt", "mlp_vl", "attn")}
    assert millions == {"mlp_img": 693, "mlp_txt": 693, "mlp_vl": 52, "attn": 318}  # with biases and inner norms
    assert trees.count(found) == pytest.approx(1.9e9, rel=0.03)


@pytest.mark.parametrize("variant", ["mdm_a", "caption_a"])
def test_fixture(golden, variant):
    results = fixtures.run_fixture(golden / "beit3" / variant)
    assert results and not [result.line() for result in results if not result.passed]


@pytest.mark.parametrize("variant", ["mdm_a", "caption_a"])
def test_a_checkpoint_is_written_as_it_was_read(golden, tmp_path, variant):
    folder = golden / "beit3" / variant
    loaded = surgery.load(folder, models.shapes)
    surgery.export(loaded.variables, loaded.system, "torchscale", tmp_path / "a", origin=loaded.origin)
    before, after = (files.open_tensors(path) for path in (folder, tmp_path / "a"))
    assert set(before.keys()) == set(after.keys())
    for key in before.keys():  # noqa: SIM118
        np.testing.assert_array_equal(before.read(key), after.read(key), err_msg=key)
    surgery.export(loaded.variables, loaded.system, "torchscale", tmp_path / "b")
    assert surgery.load(tmp_path / "b", models.shapes).system == loaded.system
    larger = surgery.load(folder, models.shapes, image_size=48)
    old, new = (each.variables["params"]["img"]["pos"] for each in (loaded, larger))
    assert len(new) == 3 + 36
    np.testing.assert_array_equal(new[:3], old[:3])
    with pytest.raises(UserError, match="its attention is shared"):
        surgery.export(loaded.variables, {**loaded.system, "shared": True}, "torchscale", tmp_path / "c")


def losses(system, variables, batch, key=3):
    rngs = {"dropout": jax.random.key(key)}
    terms = system.apply(variables, batch, train=True, method="losses", rngs=rngs)
    return total(terms), terms


def test_masked_data_modelling_of_images_texts_and_pairs():
    system = build({**TINY, "tokenizer": TOKENIZER})
    variables = make(system)
    _, terms = losses(system, variables, BATCH)
    assert set(terms) == {"image", "text", "pair_image", "pair_text"}
    assert float(terms["image"].count) == float(terms["pair_image"].count) == B * round(0.4 * 16)
    inside = np.maximum(np.asarray(BATCH["valid"]).sum(1) - 2, 0)
    assert float(terms["text"].count) == np.maximum(np.round(0.15 * inside), inside > 0).sum()
    assert float(terms["pair_text"].count) == np.maximum(np.round(0.5 * inside), inside > 0).sum()
    for modality, names in {"image": {"image"}, "text": {"text"}}.items():
        part = {k: v for k, v in BATCH.items() if (k == "image") == (modality == "image")}
        assert set(losses(system, variables, part)[1]) == names
    with pytest.raises(UserError, match=r"needs a tokenizer: system\.tokenizer"):
        losses(build(TINY), make(build(TINY)), BATCH)


def test_pixels_may_be_predicted_instead_of_codes():
    """Without a tokenizer; a model that sees the right pixels pays nothing for them."""
    system = build({**TINY, "target": "pixels"})
    variables = make(system)
    assert variables["params"]["patches"]["kernel"].shape == (16, 3 * 4 * 4)
    terms = system.apply(variables, BATCH, train=False, rngs={"dropout": jax.random.key(0)}, method="losses")
    assert set(terms) == {"image", "text", "pair_image", "pair_text"} and float(terms["image"].count) == B * 6
    targets = system.apply(variables, BATCH["image"], method="targets_of")
    assert targets.shape == (B, 16, 48) and np.allclose(targets.std(axis=-1), 1.0, atol=1e-2)
    with pytest.raises(UserError, match="target"):
        build({**TINY, "target": "colours"})


def test_a_text_may_be_longer_than_the_image():
    system = build({**TINY, "img": {"image_size": 16, "patch": 8}, "tokenizer": {**TOKENIZER, "img": {
        **TOKENIZER["img"], "patch": 8}}})  # fmt: skip
    _, terms = losses(system, make(system), BATCH)
    assert set(terms) == {"image", "text", "pair_image", "pair_text"}


def test_one_device_equals_eight(mesh8):
    system = build({**TINY, "tokenizer": TOKENIZER})
    variables = make(system)
    rest = {k: v for k, v in variables.items() if k != "params"}
    run = jax.value_and_grad(lambda p, b: losses(system, {**rest, "params": p}, b)[0])
    value, grads = jax.jit(run)(variables["params"], BATCH)
    with sharding.use_mesh(mesh8):
        placed = jax.device_put(BATCH, sharding.batch_sharding(mesh8))
        spread, others = jax.jit(run)(variables["params"], placed)
    np.testing.assert_allclose(value, spread, rtol=1e-5)
    for (path, a), b in zip(trees.flatten(grads).items(), trees.flatten(others).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=path)


def test_pre_training_leaves_the_tokenizer_bit_identical():
    system = build({**TINY, "tokenizer": TOKENIZER})
    variables, stage = make(system), Stage(steps=2, lr=1e-2, train=STAGES["pretrain"], weight_decay=0.1)
    trained, frozen = trees.split(variables["params"], stage.train)
    assert set(frozen) == {"tokenizer"} and "tokenizer" not in trained
    tx = make_optimizer(stage, trained, variables["params"])
    state = begin(stage, tx, variables, jax.random.key(0))
    step = jax.jit(functools.partial(train_step, system, tx, stage))
    for _ in range(2):
        state, _ = step(state, BATCH)
    after = {"params": trees.merge(state.frozen, state.params), **state.stats}
    for path, before in trees.flatten(variables).items():
        same = np.asarray(before).tobytes() == np.asarray(trees.flatten(after)[path]).tobytes()
        assert same or "tokenizer" not in path, path


def test_captions_see_the_image_and_what_stands_before():
    system = build({**TINY, "tasks": ("caption",)})
    variables = make(system)
    image, ids, valid = BATCH["image"], BATCH["ids"], jnp.ones((B, 6), bool)
    logits = functools.partial(system.apply, variables, method="caption_logits")
    a, b = logits(image, ids, valid), logits(image, ids.at[:, 3].set(1), valid)
    np.testing.assert_allclose(a[:, :3], b[:, :3], atol=1e-5)
    assert not np.allclose(a[:, 3:], b[:, 3:], atol=1e-3)
    assert not np.allclose(a[:, 0], logits(255 - image, ids, valid)[:, 0], atol=1e-3)
    # A word is guessed from a mask token in its place, whatever stands behind.
    guess = system.apply(variables, image, ids, jnp.full(B, 2), method="next_logits")
    np.testing.assert_allclose(guess, logits(image, ids.at[:, 2].set(39), valid)[:, 2], atol=1e-5)
    np.testing.assert_allclose(
        guess, system.apply(variables, image, ids.at[:, 4].set(7), jnp.full(B, 2), method="next_logits"), atol=1e-5
    )


@pytest.mark.parametrize("change", [{}, {"scan": True}, {"top": 1, "shared": True}], ids=["", "scan", "giant"])
def test_captions_are_written_as_by_guessing_word_after_word(change):
    """Greedy, with the cache, against `next_logits` of the whole text each time; prompts of several lengths."""
    system = build({**TINY, "tasks": ("caption",), "end_ids": [38], **change})
    batch = {**BATCH, "valid": jnp.arange(6)[None] < jnp.array([1, 2, 3, 1, 2, 1, 1, 3])[:, None]}
    variables = make(system, batch)
    how = Settings(max_length=6, min_length=6)
    made = jax.jit(functools.partial(generate, system, how=how))(variables, batch)
    ids, count = np.where(batch["valid"], batch["ids"], 0), np.array(batch["valid"].sum(axis=1))
    guess = jax.jit(lambda ids, count: system.apply(variables, batch["image"], ids, count, method="next_logits"))
    while count.min() < 6:
        logits = np.array(guess(ids, np.minimum(count, 5)))
        logits[:, 38] = -np.inf
        for row in np.flatnonzero(count < 6):
            ids[row, count[row]] = logits[row].argmax()
            count[row] += 1
    np.testing.assert_array_equal(made.ids, ids)
    assert len({tuple(row) for row in ids.tolist()}) == B


def test_captions_end_and_fit():
    system = build({**TINY, "tasks": ("caption",), "begin_id": 3, "end_ids": [38]})
    variables, batch = make(system), {"image": BATCH["image"]}
    beams = system.apply(variables, batch, Settings(max_length=5, beams=3), method="generate")
    assert beams["ids"].shape == (B, 5) and not np.isin(beams["ids"][np.asarray(beams["valid"])], [38]).any()
    with pytest.raises(UserError, match="up to 9 tokens, but the system has 6 positions"):
        system.apply(variables, batch, Settings(max_length=9), method="generate")


def test_one_model_answers_and_writes():
    """Each loss is that of the system which does it alone."""
    tasks, target = ("vqa", "caption"), jax.nn.one_hot(jnp.arange(B) % 3, 3)
    both = {**BATCH, "target": target, "caption_ids": BATCH["ids"][::-1], "caption_valid": BATCH["valid"][::-1]}
    system = build({**TINY, "tasks": tasks, "classes": 3, "norm_final": True})
    assert {"target", "caption_ids", "caption_valid"} <= set(system.example(B))
    variables, key = make(system, both), {"dropout": jax.random.key(3)}
    terms = system.apply(variables, both, train=False, rngs=key, method="losses")
    texts = {**BATCH, "ids": both["caption_ids"], "valid": both["caption_valid"]}
    for task, batch in (("vqa", {**BATCH, "target": target}), ("caption", texts)):
        alone = system.clone(tasks=(task,)).apply(variables, batch, train=False, rngs=key, method="losses")
        np.testing.assert_allclose(terms[task].sum, alone[task].sum, rtol=1e-6)
    logits = system.apply(variables, BATCH, method="logits")
    np.testing.assert_array_equal(logits, system.apply(variables, *BATCH.values(), method="answer"))


def test_the_captions_loss_is_a_divergence():
    """Zero where the logits are the smoothed labels; by hand elsewhere."""
    system = build({**TINY, "tasks": ("caption",), "smoothing": 0.1})
    variables, V = make(system), 40
    ids, chosen = BATCH["ids"], jnp.zeros((B, 6), bool).at[0, 2].set(True)
    args = (BATCH["image"], ids, BATCH["valid"], ids, chosen)
    term = system.apply(variables, *args, train=False, method="caption_loss")
    logits = system.apply(variables, *args[:3], method="caption_logits")[0, 2]
    wanted = np.full(V, 0.1 / (V - 1))
    wanted[int(ids[0, 2])] = 0.9
    expected = (wanted * (np.log(wanted) - np.asarray(jax.nn.log_softmax(logits)))).sum()
    np.testing.assert_allclose((term.sum, term.count), (expected, 1), rtol=1e-4)


def test_fine_tuning_forms_learn():
    for task, extra in {
        "vqa": {"target": jax.nn.one_hot(jnp.arange(B) % 3, 3)},
        "classify": {"label": jnp.arange(B) % 3},
        "retrieval": {},
        "caption": {},
    }.items():
        system, batch = build({**TINY, "tasks": (task,), "classes": 3}), {**BATCH, **extra}
        variables, stage = make(system, batch), Stage(steps=25, lr=5e-3)
        tx = make_optimizer(stage, variables["params"])
        state = begin(stage, tx, variables, jax.random.key(0))
        step, seen = jax.jit(functools.partial(train_step, system, tx, stage)), []
        for _ in range(stage.steps):
            state, metrics = step(state, batch)
            seen.append(float(metrics["loss"]))
        assert seen[-1] < 0.75 * seen[0], (task, seen[0], seen[-1])


def test_images_and_texts_alone_come_from_their_own_rows():
    """Terms of images and of texts change with what stands alone, those of pairs with the pairs; any number of rows."""
    system = build({**TINY, "target": "pixels"})
    variables = make(system)
    losses = jax.jit(lambda batch: system.apply(variables, batch, train=True, method="losses",
                                                rngs={"dropout": jax.random.key(5)}))  # fmt: skip
    alone = {"alone_image": BATCH["image"][:3] // 2}
    alone |= {f"alone_{key}": BATCH[key][2:7, :5] for key in ("ids", "valid")}
    first = losses({**BATCH, **alone})
    assert set(first) == {"image", "text", "pair_image", "pair_text"}
    other = losses({**{key: value[::-1] for key, value in BATCH.items()}, **alone})
    for kind in first:
        assert (float(first[kind].sum) == float(other[kind].sum)) == (not kind.startswith("pair")), kind
    masked = round(0.4 * 16)
    assert float(first["image"].count) == 3 * masked and float(first["pair_image"].count) == B * masked
    # Those of the pairs, where nothing stands alone: the same as rows that are equal to them.
    pairs = losses(BATCH)
    spelled = losses({**BATCH, "alone_image": BATCH["image"], "alone_ids": BATCH["ids"], "alone_valid": BATCH["valid"]})
    for kind in pairs:
        np.testing.assert_allclose(pairs[kind].sum, spelled[kind].sum, rtol=1e-6)
