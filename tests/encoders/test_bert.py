"""BERT: parameter counts of the published sizes, causality, padding, modes that share what they should, scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.stacking import stack_blocks
from mmjax.encoders.bert import Bert

TINY = {"vocab": 40, "length": 12, "width": 16, "depth": 3, "heads": 2, "cross_from": 1, "lm_head": True}
IDS = np.random.default_rng(0).integers(1, 40, (3, 7)).astype(np.int32)
VALID = np.arange(7)[None] < np.array([7, 4, 2])[:, None]
CONTEXT = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 24)), jnp.float32)  # another width than BERT's


def everything(model, ids, valid, context):
    return model.logits(model(ids, valid, context))


def init(model, seed=0):
    params = shd.unbox(model.init(jax.random.key(seed), IDS, VALID, CONTEXT, method=everything))["params"]
    rng = np.random.default_rng(seed)  # zeros and ones would hide a wrong mapping
    return jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), params)


def count(context_width=768, vocab=30522, **options):
    model = Bert(vocab, 512, 768, heads=12, **options)
    ids, valid = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), jnp.bool_)
    context = jax.ShapeDtypeStruct((1, 5, context_width), jnp.float32)

    def run(model, ids, valid, context):
        x = model(ids, valid, context)
        return model.logits(x) if model.lm_head else x

    made = jax.eval_shape(lambda i, v, c: model.init(jax.random.key(0), i, v, c, method=run), ids, valid, context)
    return trees.count(shd.unbox(made)["params"])


def test_parameters_of_the_published_sizes():
    assert count(depth=12, cross_from=6) == 123_075_072
    assert count(depth=12, cross_from=6, lm_head=True) == 123_697_722
    assert count(depth=6, cross_from=0, lm_head=True) == 81_170_490  # ALBEF's answer decoder
    assert count(depth=12, cross_from=0, types=0, vocab=30524) == 137_258_496  # BLIP
    assert count(1024, depth=12, cross_from=0, types=0, vocab=30524) == 141_977_088


def test_padding_is_not_seen_and_the_context_is():
    model = Bert(**TINY)
    params = init(model)
    run = jax.jit(lambda ids, context: model.apply({"params": params}, ids, VALID, context))
    x = run(IDS, CONTEXT)
    other = run(np.where(VALID, IDS, 3), CONTEXT)
    np.testing.assert_allclose(x[VALID], other[VALID], atol=1e-6)
    assert np.abs(run(IDS, CONTEXT + 1.0 * (jnp.arange(24) % 2)[None, None]) - x).max() > 1e-3
    short = model.apply({"params": params}, IDS[1:2, :4], VALID[1:2, :4], CONTEXT[1:2])
    np.testing.assert_allclose(short[0], x[1, :4], atol=1e-5)


def test_hidden_context_does_not_matter():
    model = Bert(**TINY)
    params, seen = init(model), np.arange(5)[None] < np.array([5, 3, 1])[:, None]
    run = jax.jit(lambda context: model.apply({"params": params}, IDS, VALID, context, seen))
    other = jnp.where(seen[:, :, None], CONTEXT, 7.0)
    np.testing.assert_allclose(run(CONTEXT)[VALID], run(other)[VALID], atol=1e-6)


def test_causal_states_follow_from_earlier_tokens_alone():
    model = Bert(**TINY)
    params = init(model)
    run = jax.jit(lambda ids: model.apply({"params": params}, ids, np.ones_like(VALID), CONTEXT, causal=True))
    changed = IDS.copy()
    changed[:, 4] = 39 - changed[:, 4]
    before, after = run(IDS), run(changed)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (np.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-4).all()


def test_layers_in_two_parts_are_all_layers():
    model = Bert(**TINY)
    params = init(model)

    def two_parts(model):
        return model.fuse(model.encode(IDS, VALID), VALID, CONTEXT)

    whole = model.apply({"params": params}, IDS, VALID, CONTEXT)
    np.testing.assert_array_equal(model.apply({"params": params}, method=two_parts), whole)


@pytest.mark.parametrize("scan", [False, True])
def test_modes_share_all_but_self_attention(scan):
    model = Bert(**{**TINY, "cross_from": 0, "types": 0}, scan=scan)

    def modes(model):
        one, two = (model(IDS, VALID, CONTEXT, mode=mode, causal=bool(mode)) for mode in ("", "dec"))
        return model(IDS, VALID), one, two

    params = shd.unbox(model.init(jax.random.key(0), method=modes))["params"]
    blocks = params["fusion"]["blocks" if scan else "block_1"]
    assert set(blocks) == {"attn", "attn_dec", "norm1", "norm1_dec", "cross", "norm_cross", "mlp", "norm2"}
    text, one, two = model.apply({"params": params}, method=modes)
    assert np.abs(one - two).max() > 1e-3 and np.abs(text - one).max() > 1e-3


def test_scanned_layers_compute_what_unrolled_ones_do():
    model = Bert(**TINY)
    params = init(model)
    scanned = Bert(**TINY, scan=True, remat="full")
    ours = model.apply({"params": params}, IDS, VALID, CONTEXT)
    np.testing.assert_allclose(scanned.apply({"params": stack_blocks(params)}, IDS, VALID, CONTEXT), ours, atol=1e-5)


def test_dropout_acts_in_training_alone():
    model = Bert(**TINY, dropout=0.5, attn_dropout=0.5)
    params = init(model)
    still = Bert(**TINY).apply({"params": params}, IDS, VALID, CONTEXT)
    np.testing.assert_array_equal(model.apply({"params": params}, IDS, VALID, CONTEXT), still)
    key = {"dropout": jax.random.key(1)}
    assert np.abs(model.apply({"params": params}, IDS, VALID, CONTEXT, train=True, rngs=key) - still).max() > 0.1


def test_the_output_map_is_the_token_embedding():
    model = Bert(**TINY)
    params = init(model)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 16)), jnp.float32)
    got = model.apply({"params": params}, x, method="logits")
    x, params = np.asarray(x), jax.tree.map(np.asarray, params)
    h = x @ params["head"]["dense"]["kernel"] + params["head"]["dense"]["bias"]
    h = np.asarray(jax.nn.gelu(h, approximate=False))
    h = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True)
    h = h * params["head"]["norm"]["scale"] + params["head"]["norm"]["bias"]
    np.testing.assert_allclose(got, h @ params["embed"]["embedding"].T + params["head_bias"], atol=1e-4)
