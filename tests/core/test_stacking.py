import jax
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.core.stacking import stack_blocks, unstack_blocks


def tree(depth=11):
    return {
        "txt": {
            "transformer": {f"block_{i}": {"a": np.full((2, 3), i), "n": {"b": np.full((), -i)}} for i in range(depth)}
        },
        "scale": np.ones(()),
    }


def test_blocks_are_stacked_in_numeric_order_and_come_back():
    stacked = stack_blocks(tree())
    assert set(stacked["txt"]["transformer"]) == {"blocks"}
    assert stacked["txt"]["transformer"]["blocks"]["a"].shape == (11, 2, 3)
    assert stacked["txt"]["transformer"]["blocks"]["n"]["b"].tolist() == [
        -i for i in range(11)
    ]  # 10 after 9, not after 1
    back = unstack_blocks(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(tree())
    assert jax.tree.all(jax.tree.map(np.array_equal, back, tree()))


def test_shapes_without_arrays_convert_too():
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree(3))
    stacked = stack_blocks(abstract)
    assert stacked["txt"]["transformer"]["blocks"]["a"].shape == (3, 2, 3)
    assert unstack_blocks(stacked) == abstract


def test_a_gap_or_unequal_blocks_are_errors():
    with pytest.raises(UserError, match=r"\[0, 2\]"):
        stack_blocks({"block_0": {"a": np.ones(1)}, "block_2": {"a": np.ones(1)}})
    with pytest.raises(UserError, match=r"\[1\] differ"):
        stack_blocks({"block_0": {"a": np.ones(1)}, "block_1": {"a": np.ones(2)}})
    with pytest.raises(UserError, match=r"\[2, 3\]"):
        unstack_blocks({"blocks": {"a": np.ones((2, 1)), "b": np.ones((3, 1))}})
