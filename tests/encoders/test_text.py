import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.encoders.text import TextTransformer

NET = TextTransformer(vocab=50, length=8, width=24, depth=2, heads=2)
IDS = jax.random.randint(jax.random.key(0), (3, 8), 0, 50)
VALID = jnp.arange(8)[None, :] < jnp.array([8, 5, 3])[:, None]
APPLY = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def params():
    """Random values for every parameter, biases too, without compiling the initialisers."""
    shapes = trees.flatten(nn.meta.unbox(jax.eval_shape(NET.init, jax.random.key(1), IDS, VALID)))
    rng = np.random.default_rng(0)
    fill = {k: rng.normal(k.endswith("scale"), 0.3, s.shape).astype(np.float32) for k, s in shapes.items()}
    return jax.tree.map(jnp.asarray, trees.unflatten(fill))


def test_pooled_is_the_normed_state_of_the_last_valid_token(params):
    out = APPLY(params, IDS, VALID)
    assert out.tokens.shape == (3, 8, 24)
    np.testing.assert_array_equal(out.pooled, out.tokens[jnp.arange(3), jnp.array([7, 4, 2])])


def test_no_token_sees_a_later_one(params):
    base = APPLY(params, IDS, VALID).tokens
    for t in (1, 4, 7):
        changed = APPLY(params, IDS.at[:, t].set((IDS[:, t] + 1) % 50), VALID).tokens
        np.testing.assert_allclose(changed[:, :t], base[:, :t], atol=1e-6)
        assert np.abs(changed[:, t] - base[:, t]).max() > 1e-3


def test_padding_and_its_length_change_nothing(params):
    base = APPLY(params, IDS, VALID).pooled
    np.testing.assert_allclose(APPLY(params, jnp.where(VALID, IDS, 49), VALID).pooled, base, atol=1e-6)
    short = NET.apply(params, IDS[1:, :5], VALID[1:, :5]).pooled
    np.testing.assert_allclose(short, base[1:], atol=1e-5)


def test_the_end_token_is_never_found_by_its_id(params):
    """The largest id in the middle of a text does not end it."""
    ids = IDS.at[0].set(jnp.array([3, 49, 4, 5, 6, 7, 8, 9]))
    out = APPLY(params, ids, VALID)
    np.testing.assert_array_equal(out.pooled[0], out.tokens[0, 7])


def test_siglips_texts_are_seen_whole_and_read_at_the_last_position(params):
    net = TextTransformer(vocab=50, length=8, width=24, depth=2, heads=2, causal=False, pool="last")
    out = jax.jit(net.apply)(params, IDS, VALID)
    np.testing.assert_array_equal(out.pooled, out.tokens[:, -1])
    changed = jax.jit(net.apply)(params, IDS.at[2, 5].set((IDS[2, 5] + 1) % 50), VALID)  # padding of the third text
    assert np.abs(changed.tokens[2, 0] - out.tokens[2, 0]).max() > 1e-3
    masked = net.clone(mask_padding=True)
    one, other = (jax.jit(masked.apply)(params, ids, VALID) for ids in (IDS, jnp.where(VALID, IDS, 49)))
    np.testing.assert_allclose(one.tokens[2, :3], other.tokens[2, :3], atol=1e-6)
    with pytest.raises(UserError, match="pool 'first'"):
        TextTransformer(vocab=50, length=8, width=24, depth=2, heads=2, pool="first").apply(params, IDS, VALID)


def test_initial_scales():
    wide = TextTransformer(vocab=1000, length=64, width=128, depth=4, heads=2)
    ids = jnp.zeros((1, 64), jnp.int32)
    p = nn.meta.unbox(jax.jit(wide.init)(jax.random.key(0), ids, ids == 0))["params"]
    block = p["transformer"]["block_3"]
    expected = {
        "embed": (p["embed"]["embedding"], 0.02),
        "pos": (p["pos"], 0.01),
        "q": (block["attn"]["q"]["kernel"], 128**-0.5),
        "out": (block["attn"]["out"]["kernel"], 128**-0.5 * 8**-0.5),
        "fc1": (block["mlp"]["fc1"]["kernel"], 256**-0.5),
        "fc2": (block["mlp"]["fc2"]["kernel"], 128**-0.5 * 8**-0.5),
    }
    for name, (array, std) in expected.items():
        assert np.std(array) == pytest.approx(std, rel=0.05), name


def test_too_many_tokens_are_an_error(params):
    with pytest.raises(UserError, match="texts of 9 tokens, but the text encoder has 8 positions"):
        NET.apply(params, jnp.zeros((1, 9), jnp.int32), jnp.ones((1, 9), bool))


def test_padding_on_the_wrong_side_is_refused_where_it_can_be_seen(params):
    valid = np.asarray(VALID)
    with pytest.raises(UserError, match=r"text encoder: row 1 has its padding on the left: tokens at 3 to 7"):
        NET.apply(params, IDS, valid[:, ::-1])
    np.testing.assert_allclose(NET.apply(params, IDS, valid).pooled, APPLY(params, IDS, VALID).pooled, atol=1e-5)


CLS = TextTransformer(vocab=50, length=8, width=24, depth=2, heads=2, pool="cls")


@pytest.fixture(scope="module")
def with_cls(params):
    """The parameters of the other nets with a class token and its position."""
    more = {"cls": jnp.linspace(-1, 1, 24), "pos": jnp.concatenate([params["params"]["pos"], jnp.ones((1, 24))])}
    return {"params": {**params["params"], **more}}


def test_a_class_token_behind_the_text_reads_it_and_no_padding(with_cls, params):
    run = jax.jit(CLS.apply)
    out = run(with_cls, IDS, VALID)
    assert out.tokens.shape == (3, 8, 24) and out.pooled.shape == (3, 24)
    other = run(with_cls, jnp.where(VALID, IDS, 49), VALID)
    np.testing.assert_allclose(other.pooled, out.pooled, atol=1e-6)
    short = CLS.apply(with_cls, IDS[1:, :5], VALID[1:, :5])  # its position is the last one, however short the text
    np.testing.assert_allclose(short.pooled, out.pooled[1:], atol=1e-5)
    for row, end in enumerate((8, 5, 3)):  # it sees every token of the text
        for t in range(end):
            changed = run(with_cls, IDS.at[row, t].set((IDS[row, t] + 1) % 50), VALID).pooled
            assert np.abs(changed[row] - out.pooled[row]).max() > 1e-3
    # The other tokens do not see it; they are not normed, for a decoder goes on from them.
    x = np.asarray(out.tokens)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    p = jax.device_get(params["params"]["norm_final"])
    plain = np.asarray(APPLY(params, IDS, VALID).tokens)
    np.testing.assert_allclose((x * p["scale"] + p["bias"])[VALID], plain[np.asarray(VALID)], atol=1e-4)


def test_open_clips_shifted_mask_shows_the_first_padded_place(with_cls):
    run = jax.jit(CLS.clone(cls_shift=True).apply)
    base = run(with_cls, IDS, VALID)

    def moved(row, t):
        changed = run(with_cls, IDS.at[row, t].set((IDS[row, t] + 1) % 50), VALID)
        return np.abs(changed.pooled[row] - base.pooled[row]).max() > 1e-5

    assert moved(1, 5) and moved(2, 3)  # the first padded place of each
    assert not moved(1, 6) and not moved(2, 4)
    np.testing.assert_allclose(base.pooled[0], CLS.apply(with_cls, IDS, VALID).pooled[0], atol=1e-5)  # no padding
