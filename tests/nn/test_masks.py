import jax.numpy as jnp
import numpy as np

from mmjax.nn import masks


def ints(mask):
    return mask.astype(int).tolist()


def test_causal_by_hand():
    assert ints(masks.causal(3)) == [[[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]]


def test_a_window_of_two_sees_itself_and_its_predecessor():
    assert ints(masks.causal(4, window=2))[0][0] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_blocks_by_hand():
    mask_ar = jnp.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 1, 0]])
    assert ints(masks.blocks(mask_ar)[:, 0]) == [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],  # a prefix of one token is its own block
        [[1, 0, 0], [1, 1, 1], [1, 1, 1]],
    ]
    assert np.array_equal(masks.blocks(mask_ar.astype(bool)), masks.blocks(mask_ar))


def test_padding_hides_keys_from_every_query_and_combines():
    valid = jnp.array([[True, True, False], [True, False, False]])
    assert ints(masks.padding(valid)) == [[[[1, 1, 0]]], [[[1, 0, 0]]]]
    both = masks.combine(masks.causal(3), None, masks.padding(valid))
    assert ints(both[:, 0]) == [[[1, 0, 0], [1, 1, 0], [1, 1, 0]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]]
    assert masks.combine(None, None) is None
