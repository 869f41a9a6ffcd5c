import numpy as np
import pytest

from mmjax.weights.transforms import CONV, LINEAR, ONE_VALUE, QKV_BIAS, QKV_KERNEL, SAME


def test_linear_swaps_input_and_output() -> None:
    (ours,) = LINEAR.to_ours(np.array([[1, 2, 3], [4, 5, 6]]))
    assert ours.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_convolution_axes() -> None:
    published = np.zeros((2, 3, 4, 5))  # out, in, rows, columns
    published[1, 2, 3, 4] = 7
    (ours,) = CONV.to_ours(published)
    assert ours.shape == (4, 5, 3, 2) and ours[3, 4, 2, 1] == 7


def test_fused_rows_are_q_then_k_then_v() -> None:
    published = np.arange(12).reshape(6, 2)  # width 2: rows 0-1 are q, 2-3 k, 4-5 v
    q, k, v = QKV_KERNEL.to_ours(published)
    assert q.tolist() == [[0, 2], [1, 3]] and k.tolist() == [[4, 6], [5, 7]] and v.tolist() == [[8, 10], [9, 11]]
    assert [part.tolist() for part in QKV_BIAS.to_ours(np.arange(6))] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(SAME, ()), (SAME, (3,)), (LINEAR, (3, 5)), (CONV, (2, 3, 4, 5)), (QKV_KERNEL, (12, 4)), (QKV_BIAS, (12,)),
     (ONE_VALUE, (1,))],
)  # fmt: skip
def test_there_and_back(transform, shape: tuple[int, ...]) -> None:
    published = np.random.default_rng(0).normal(size=shape)
    ours = transform.to_ours(published)
    assert np.array_equal(transform.to_published(ours), published)
    assert transform.published_shape([part.shape for part in ours]) == shape
