"""Pixels as targets of masked images."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.losses.pixels import masked_pixels, patch_pixels


def test_patches_have_mean_zero_and_variance_one_in_the_order_of_the_grid():
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 3)) * 5 + 3
    found = np.asarray(patch_pixels(image, 4))
    assert found.shape == (2, 6, 48)
    np.testing.assert_allclose(found.mean(axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=-1), 1.0, rtol=1e-4)
    patch = np.asarray(image)[1, 4:8, 8:12].reshape(-1)  # of the second row, the third one
    np.testing.assert_allclose(found[1, 5], (patch - patch.mean()) / patch.std(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(patch_pixels(jnp.zeros((1, 4, 4, 3)), 4)).all()  # a patch of one colour has no variance


def test_only_masked_patches_count():
    pixels = jax.random.normal(jax.random.key(0), (2, 3, 4))
    masked = jnp.array([[True, False, False], [False, False, True]])
    term = masked_pixels(pixels + jnp.array([1.0, 2.0, 3.0])[None, :, None], pixels, masked)
    assert (float(term.sum), float(term.count)) == (10.0, 2.0)  # 1² of one, 3² of the other
    assert float(masked_pixels(pixels, pixels, jnp.zeros_like(masked)).mean) == 0.0
