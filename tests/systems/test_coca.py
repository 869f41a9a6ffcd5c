import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding, trees
from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks
from mmjax.core.types import total
from mmjax.decoders.settings import Settings
from mmjax.systems import build
from mmjax.systems.coca import SIZES
from mmjax.train.accumulate import cached_value_and_grad

TINY = {
    "name": "coca",
    "embed_dim": 16,
    "img": {"image_size": 16, "patch": 8, "width": 24, "depth": 2, "heads": 2, "act": "gelu", "cls": False},
    "txt": {"vocab": 50, "length": 8, "width": 16, "depth": 2, "heads": 2, "act": "gelu"},
    "dec": {"depth": 2},
    "queries": 5,
    "project": False,
}
OPEN_CLIP = {
    **TINY,
    "img": {**TINY["img"], "cls": True, "norm_post": "none"},
    "txt": {**TINY["txt"], "cls_shift": True},
    "dec": {"depth": 2, "mlps": 2},
    "pool": "first",
    "project": True,
    "pad_id": 0,
    "ignore_id": 0,
}
BATCH = {
    "image": jax.random.randint(jax.random.key(0), (4, 16, 16, 3), 0, 256).astype(jnp.uint8),
    "ids": jax.random.randint(jax.random.key(1), (4, 8), 1, 50),
    "valid": jnp.arange(8)[None, :] < jnp.array([8, 5, 3, 4])[:, None],
}


def make(system, batch=BATCH):
    """Random values for every parameter without compiling the initialisers; the scale as it starts."""
    shapes = trees.flatten(sharding.unbox(jax.eval_shape(system.init, jax.random.key(0), batch)))
    rng = np.random.default_rng(0)

    def fill(name, shape):
        if name == "params/log_scale":
            return jnp.float32(np.log(system.scale_init))
        return jnp.asarray(rng.normal(name.endswith("/scale"), 0.3, shape), jnp.float32)

    return trees.unflatten({name: fill(name, s.shape) for name, s in shapes.items()})


def losses(system, variables, batch=BATCH):
    return jax.jit(lambda v, b: system.apply(v, b, train=True, method="losses"))(variables, batch)


# Exact parameters of encoder and of both halves of the decoder, which the paper's Table 1 gives in millions, and of the
# poolers, which its sums leave out.
PAPER = {
    "base": (85_999_872, 296_833_536, 4_931_328),
    "large": (303_569_920, 483_858_432, 8_672_256),
    "coca": (1_011_740_288, 1_180_295_424, 16_249_728),
}
# All parameters of open_clip's models.
PUBLISHED = {"open_clip_vit_b32": 253_560_065, "open_clip_vit_l14": 638_450_177, "open_clip_base": 440_337_409}


def counts(size, **options):
    system, sizes = build({"name": "coca", "size": size, **options}), SIZES[size]
    side, length = sizes["img"]["image_size"], sizes["txt"]["length"]
    batch = {
        "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((1, length), jnp.int32),
        "valid": jax.ShapeDtypeStruct((1, length), bool),
    }
    shapes = sharding.unbox(jax.eval_shape(lambda b: system.init(jax.random.key(0), b), batch))["params"]
    return trees.count_by_module(shapes)


@pytest.mark.parametrize("size", sorted(PAPER))
def test_the_papers_sizes(size):
    found = counts(size, scan=True)
    assert (found["img"], found["txt"] + found["dec"], found["cap_pool"] + found["con_pool"]) == PAPER[size]
    assert sum(found.values()) == sum(PAPER[size]) + 1
    both = sum(PAPER[size][:2])
    # 383M and 787M are these sums, rounded; for the largest, 1B and 1.1B make the paper's 2.1B, and exact parts 2.19B.
    assert {"base": both // 100_000 == 3828, "large": both // 100_000 == 7874, "coca": both // 10_000_000 == 219}[size]


@pytest.mark.parametrize("size", sorted(PUBLISHED))
def test_open_clips_sizes(size):
    assert sum(counts(size, scan=True).values()) == PUBLISHED[size]


def test_all_sizes_are_counted():
    assert set(SIZES) == set(PAPER) | set(PUBLISHED)


@pytest.mark.parametrize("config", [TINY, OPEN_CLIP])
def test_both_losses_are_those_of_the_paper(config):
    system = build(config)
    variables = make(system)
    terms = losses(system, variables)
    assert (terms["contrastive"].weight, terms["caption"].weight) == (1.0, 2.0)
    img = system.apply(variables, BATCH["image"], method="embed_image")
    txt = system.apply(variables, BATCH["ids"], BATCH["valid"], method="embed_text")
    cosines = system.apply(variables, BATCH, method="logits")
    np.testing.assert_allclose(cosines, img @ txt.T / 0.07, rtol=1e-4)
    rows, columns = (jax.nn.log_softmax(cosines, axis=a) for a in (1, 0))
    expected = -(np.diag(rows).mean() + np.diag(columns).mean()) / 2
    np.testing.assert_allclose(terms["contrastive"].mean, expected, rtol=1e-5)
    log_p = jax.nn.log_softmax(system.apply(variables, BATCH, method="caption_logits"))
    told = [(b, t) for b, length in enumerate((8, 5, 3, 4)) for t in range(1, length)]
    expected = -np.mean([log_p[b, t - 1, BATCH["ids"][b, t]] for b, t in told])
    assert float(terms["caption"].count) == len(told) == 16
    np.testing.assert_allclose(terms["caption"].mean, expected, rtol=1e-5)


def test_padding_changes_no_loss():
    system = build(TINY)
    variables = make(system)
    base = losses(system, variables)
    other = losses(system, variables, {**BATCH, "ids": jnp.where(BATCH["valid"], BATCH["ids"], 7)})
    short = {k: v[1:, :5] if k in ("ids", "valid") else v[1:] for k, v in BATCH.items()}
    long = {k: v[1:] for k, v in BATCH.items()}
    for key in base:
        np.testing.assert_allclose(other[key].mean, base[key].mean, rtol=1e-5)
        one, two = losses(system, variables, short)[key], losses(system, variables, long)[key]
        np.testing.assert_allclose(one.mean, two.mean, rtol=1e-5)


def test_a_caption_is_written_from_the_image_and_read_without_it():
    system = build(TINY)
    variables = make(system)
    other = {**BATCH, "image": BATCH["image"][::-1]}
    one, two = (system.apply(variables, b, method="caption_logits") for b in (BATCH, other))
    assert np.abs(one - two).max() > 1e-3
    one, two = (system.apply(variables, b, train=False, method="features")["txt"] for b in (BATCH, other))
    np.testing.assert_array_equal(one, two)


def test_cascade_reads_the_captions_tokens_and_parallel_the_encoders():
    cascade, parallel = build(TINY), build({**TINY, "pool": "parallel"})
    variables = make(cascade)
    shape = lambda system: make(system)["params"]["con_pool"]["attn"]["k"]["kernel"].shape  # noqa: E731
    assert (shape(cascade), shape(parallel)) == ((16, 16), (24, 16))
    query = variables["params"]["cap_pool"]["query"]
    moved = {"params": {**variables["params"], "cap_pool": {**variables["params"]["cap_pool"], "query": -query}}}
    one, two = (cascade.apply(v, BATCH["image"], method="see").pooled for v in (variables, moved))
    assert np.abs(one - two).max() > 1e-4
    other = make(parallel)
    moved = {"params": {**other["params"], "cap_pool": {**other["params"]["cap_pool"], "query": -query}}}
    one, two = (parallel.apply(v, BATCH["image"], method="see") for v in (other, moved))
    np.testing.assert_array_equal(one.pooled, two.pooled)
    assert np.abs(one.tokens - two.tokens).max() > 1e-4


def test_the_id_zero_is_padding_and_no_target_only_in_open_clips_form():
    ids = BATCH["ids"].at[0, 3].set(0)
    for config, supervised in ((TINY, 16), (OPEN_CLIP, 15)):
        system = build(config)
        variables = make(system)
        assert float(losses(system, variables, {**BATCH, "ids": ids})["caption"].count) == supervised
    hidden = {**BATCH, "ids": ids, "valid": BATCH["valid"].at[0, 3].set(False)}
    one, two = (system.apply(variables, b, method="caption_logits") for b in ({**BATCH, "ids": ids}, hidden))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("config", [TINY, OPEN_CLIP])
def test_every_parameter_gets_a_gradient(config):
    system = build(config)
    variables = make(system)

    def loss(params):
        return total(system.apply({"params": params}, BATCH, train=True, method="losses"))

    grads = trees.flatten(jax.jit(jax.grad(loss))(variables["params"]))
    silent = sorted(k for k, g in grads.items() if not np.abs(g).max() > 1e-8)
    # The softmax ignores what a key bias adds to all scores of a query.
    assert [k for k in silent if not k.endswith("/k/bias")] == []


def test_cached_features_carry_the_captions_loss():
    """Chunks of two give the loss and the gradients of the batch of four, both losses included."""
    system = build(TINY)
    params = make(system)["params"]

    def features(params, chunk, key):
        return system.apply({"params": params}, chunk, train=True, method="features")

    def objective(params, found):
        return total(system.apply({"params": params}, found, method="objective")), None

    whole = lambda p: total(system.apply({"params": p}, BATCH, train=True, method="losses"))  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(whole))(params)
    (cached, _), made = jax.jit(cached_value_and_grad(features, objective, 2))(params, BATCH, jax.random.key(0))
    np.testing.assert_allclose(cached, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), made, grads)


def test_scan_and_remat_give_the_same_losses():
    variables = make(build(TINY))
    expected = losses(build(TINY), variables)
    for options in ({"scan": True}, {"scan": True, "remat": "full"}):
        made = losses(build({**TINY, **options}), stack_blocks(variables))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), made, expected)


def test_eight_devices_give_the_losses_and_gradients_of_one(mesh8):
    system = build(TINY)
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), BATCH)
    params = make(system)["params"]

    def grads(params, batch):
        return jax.value_and_grad(lambda p: total(system.apply({"params": p}, batch, train=True, method="losses")))(
            params
        )

    one = jax.jit(grads)(params, batch)
    with sharding.use_mesh(mesh8):
        eight = jax.jit(grads)(params, jax.device_put(batch, sharding.batch_sharding(mesh8)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), jax.device_get(one), jax.device_get(eight))


@pytest.mark.parametrize("images", [1, 2])
def test_a_classifier_reads_image_and_text_but_no_padding(images):
    system = build({**TINY, "classes": 3, "images": images})
    batch = {**BATCH, "label": jnp.array([0, 2, 1, 1])}
    if images == 2:
        batch["image"] = jnp.stack([batch["image"], batch["image"][::-1]], axis=1)
    variables = make(system, batch)
    base = system.apply(variables, batch, method="logits")
    assert base.shape == (4, 3)
    np.testing.assert_allclose(
        losses(system, variables, batch)["classes"].mean,
        -np.mean(jax.nn.log_softmax(base)[jnp.arange(4), batch["label"]]),
        rtol=1e-5,
    )
    padded = {**batch, "ids": jnp.where(batch["valid"], batch["ids"], 9)}
    np.testing.assert_allclose(system.apply(variables, padded, method="logits"), base, atol=1e-5)
    for key in ("ids", "image"):
        moved = system.apply(variables, {**batch, key: batch[key][::-1]}, method="logits")
        assert np.abs(moved - base).max() > 1e-3, key
    with pytest.raises(UserError, match=f"takes {images}"):
        system.apply(variables, {**batch, "image": jnp.zeros((4, 3, 16, 16, 3), jnp.uint8)}, method="logits")


def test_a_classifier_of_soft_targets_and_one_of_images():
    system = build({**TINY, "classes": 3, "class_loss": "sigmoid", "class_of": "image"})
    batch = {**BATCH, "target": jnp.array([[0, 0.3, 1.0]] * 4)}
    variables = make(system)
    logits = system.apply(variables, batch, method="logits")
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = -(batch["target"] * np.log(p) + (1 - batch["target"]) * np.log(1 - p)).sum() / 4
    np.testing.assert_allclose(losses(system, variables, batch)["classes"].mean, expected, rtol=1e-5)
    moved = system.apply(variables, {**batch, "ids": batch["ids"][::-1]}, method="logits")
    np.testing.assert_array_equal(moved, logits)


def test_a_classifier_can_write_besides():
    """The classes are those of the question alone, the caption's loss that of a CoCa that reads the whole text."""
    system = build({**TINY, "classes": 3, "cap_weight": 0.5})
    asked = {**BATCH, "label": jnp.array([0, 2, 1, 1])}
    batch = {**asked, "caption_ids": BATCH["ids"][::-1, :6], "caption_valid": BATCH["valid"][::-1, :6]}
    variables, plain = make(system, asked), build(TINY)
    alone, both = losses(system, variables, asked), losses(system, variables, batch)
    assert set(alone) == {"classes"} and set(both) == {"classes", "caption"}
    np.testing.assert_allclose(both["classes"].mean, alone["classes"].mean, rtol=1e-5)
    written = losses(plain, variables, {**BATCH, "ids": batch["caption_ids"], "valid": batch["caption_valid"]})
    np.testing.assert_allclose(both["caption"].mean, written["caption"].mean, rtol=1e-5)
    assert both["caption"].count == batch["caption_valid"][:, 1:].sum() and both["caption"].weight == 0.5
    with pytest.raises(UserError, match="caption_ids are for a classifier of texts with one image"):
        build({**TINY, "classes": 3, "class_of": "image"}).apply(variables, batch, train=False, method="losses")


def test_mistakes_are_named():
    for change, words in (
        ({"pool": "last"}, "'last' is not one of"),
        ({"dec": {}}, "missing key depth"),
        ({"dec": {"depth": 1, "width": 3}}, "unknown key width"),
        ({"pool_heads": 3}, "3 pool_heads do not divide pool_width 16"),
        ({"txt": {**TINY["txt"], "pool": "end"}}, "'end' is not one of 'cls'"),
    ):
        with pytest.raises(UserError, match=words):
            build({**TINY, **change})


@pytest.mark.parametrize("config", [TINY, OPEN_CLIP])
def test_captions_with_a_cache_are_those_of_whole_forward_passes(config):
    """Greedy, from the begin token and from given words of two lengths; open_clip reads everything anew each time."""
    system = build({**config, "begin_id": 48, "end_ids": [49]})
    variables = make(system)
    logits = jax.jit(lambda v, b: system.apply(v, b, method="caption_logits"))
    run = jax.jit(lambda v, b: system.apply(v, b, Settings(max_length=8), method="generate"))
    given = {"image": BATCH["image"], "ids": BATCH["ids"][:, :2], "valid": jnp.array([[True, True], [True, False]] * 2)}
    for batch in ({"image": BATCH["image"]}, given):
        made = run(variables, batch)
        for b in range(4):
            row = [48] if "ids" not in batch else batch["ids"][b][batch["valid"][b]].tolist()
            prompt = len(row)
            while len(row) < 8 and row[-1] != 49:
                ids, valid = (
                    jnp.zeros((4, 8), jnp.int32).at[b, : len(row)].set(jnp.array(row)),
                    jnp.arange(8) < len(row),
                )
                anew = logits(variables, {"image": batch["image"], "ids": ids, "valid": jnp.tile(valid, (4, 1))})
                row.append(int(anew[b, len(row) - 1].argmax()))
            words = [word for word in row[prompt:] if word != 49]
            assert made["ids"][b][made["valid"][b]].tolist() == words


def test_captions_by_beams_and_by_nucleus():
    system = build({**TINY, "begin_id": 48, "end_ids": [49]})
    variables = make(system)
    batch = {"image": BATCH["image"], "seed": jnp.arange(4, dtype=jnp.uint32)}

    def write(**how):
        made = jax.jit(lambda v, b: system.apply(v, b, Settings(max_length=6, **how), method="generate"))(
            variables, batch
        )
        return [row[ok].tolist() for row, ok in zip(made["ids"], made["valid"], strict=True)]

    def score(rows):
        """Log probability of the captions, end tokens included where there was room."""
        full = [[48, *row, 49][:6] for row in rows]
        ids = jnp.array([row + [0] * (8 - len(row)) for row in full])
        valid = jnp.arange(8)[None] < jnp.array([len(row) for row in full])[:, None]
        log_p = jax.nn.log_softmax(
            system.apply(variables, {**batch, "ids": ids, "valid": valid}, method="caption_logits")
        )
        return np.array([sum(log_p[b, t, row[t + 1]] for t in range(len(row) - 1)) for b, row in enumerate(full)])

    beams, greedy = write(beams=4, length_penalty=0.0), write()
    assert (score(beams) >= score(greedy) - 1e-5).all()
    sampled = write(sample=True, top_p=0.9)
    assert sampled == write(sample=True, top_p=0.9) and sampled != greedy


def test_a_caption_needs_a_begin_token():
    system = build(TINY)
    with pytest.raises(UserError, match="begin_id of the system is not set"):
        system.apply(make(system), {"image": BATCH["image"]}, Settings(max_length=6, end_ids=(2,)), method="generate")
