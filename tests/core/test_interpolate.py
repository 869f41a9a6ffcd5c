import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.interpolate import bicubic_matrix, bicubic_resize, linear_matrix


def test_doubling_without_antialias_uses_the_kernel_with_a_of_minus_three_quarters():
    # Output 3 of 4 -> 8 samples at source 1.25: Keys' kernel, a = -0.75, at distances 1.25, 0.25, 0.75, 1.75.
    near = lambda x: 1.25 * x**3 - 2.25 * x**2 + 1  # noqa: E731
    far = lambda x: -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    expected = [far(1.25), near(0.25), near(0.75), far(1.75)]
    np.testing.assert_allclose(bicubic_matrix(4, 8, antialias=False)[3], expected, atol=1e-12)
    assert bicubic_matrix(4, 8, antialias=False)[3] == pytest.approx([-0.10546875, 0.87890625, 0.26171875, -0.03515625])


def test_borders_are_clamped_without_antialias():
    # Output 0 of 4 -> 8 samples at -0.25: taps -2, -1, 0, 1, the first two folded onto 0.
    row = bicubic_matrix(4, 8, antialias=False)[0]
    assert row == pytest.approx([-0.03515625 + 0.26171875 + 0.87890625, -0.10546875, 0.0, 0.0])


def test_antialias_widens_the_kernel_when_shrinking():
    # 4 -> 2: kernel of a = -0.5 stretched by 2; output 0 is centred at 1.0, taps at |0.5 1.5 ...| / 2.
    near = lambda x: 1.5 * x**3 - 2.5 * x**2 + 1  # noqa: E731
    far = lambda x: -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    taps = np.array([near(0.25), near(0.25), near(0.75), far(1.25)])
    np.testing.assert_allclose(bicubic_matrix(4, 2, antialias=True)[0], taps / taps.sum(), atol=1e-12)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("sizes", [(7, 7), (7, 12), (12, 7), (16, 35)])
def test_constants_stay_and_the_same_size_is_the_identity(antialias, sizes):
    matrix = bicubic_matrix(*sizes, antialias=antialias)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    if sizes[0] == sizes[1]:
        np.testing.assert_allclose(matrix, np.eye(sizes[0]), atol=1e-12)


def test_numpy_and_jax_agree_and_axes_are_separate():
    grid = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    out = bicubic_resize(grid, (7, 9))
    assert isinstance(out, np.ndarray) and out.shape == (7, 9, 3) and out.dtype == np.float32
    np.testing.assert_allclose(bicubic_resize(jnp.asarray(grid), (7, 9)), out, atol=1e-5)
    rows, columns = bicubic_matrix(5, 7, antialias=False), bicubic_matrix(4, 9, antialias=False)
    np.testing.assert_allclose(out[..., 1], rows @ grid[..., 1] @ columns.T, atol=1e-5)


def test_linear_without_antialias():
    # 3 -> 6: places -0.25, 0.25, 0.75, 1.25, 1.75, 2.25, held between 0 and 2.
    up = [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75], [0, 0, 1]]
    np.testing.assert_allclose(linear_matrix(3, 6), up, atol=1e-12)
    # 8 -> 2: places 1.5 and 5.5; the samples between them are not read.
    down = np.zeros((2, 8))
    down[0, 1:3] = down[1, 5:7] = 0.5
    np.testing.assert_allclose(linear_matrix(8, 2), down, atol=1e-12)
    np.testing.assert_array_equal(linear_matrix(5, 5), np.eye(5))
