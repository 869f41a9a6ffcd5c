"""RandAugment: what single operations do to small pictures, and how many are done."""

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data.augment import from_config
from mmjax.data.randaugment import OPERATIONS, rand_augment

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(40, 200, (24, 32, 3)).astype(np.uint8)


class Fixed(np.random.Generator):
    """A generator that always gives one number."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, *args, **kwargs):
        return self.value


def done(name, strength, sign=0.0):
    return np.asarray(OPERATIONS[name](Image.fromarray(PICTURE), strength, Fixed(sign)))


def test_brightness_scales():
    np.testing.assert_allclose(done("brightness", 0.5), np.clip(PICTURE * 1.0, 0, 255), atol=1)
    np.testing.assert_allclose(done("brightness", 0.0), PICTURE * 0.1, atol=1)


def test_translation_moves_whole_pixels_and_fills_with_grey():
    moved = done("translate_x", 0.4)
    np.testing.assert_array_equal(moved[:, :-4], PICTURE[:, 4:])
    assert (moved[:, -4:] == 128).all()
    other = done("translate_y", 0.4, sign=1.0)
    np.testing.assert_array_equal(other[4:], PICTURE[:-4])
    assert (other[:4] == 128).all()


def test_autocontrast_uses_the_whole_range():
    out = done("autocontrast", 0.7)
    assert out.min() == 0 and out.max() == 255


@pytest.mark.parametrize("name", ["identity", "shear_x", "shear_y", "rotate", "translate_x"])
def test_no_strength_changes_nothing(name):
    np.testing.assert_allclose(done(name, 0.0), PICTURE, atol=1)


def test_every_operation_keeps_the_shape():
    for name in OPERATIONS:
        assert done(name, 0.7).shape == PICTURE.shape


def test_the_share_of_pictures_that_stay():
    same = [np.array_equal(rand_augment(PICTURE, RNG, 2, 7.0, 0.5), PICTURE) for _ in range(400)]
    assert 0.25 < np.mean(same) < 0.4  # (1 - 0.5 * 0.9)² = 0.30, and operations that happen to change nothing
    assert all(np.array_equal(rand_augment(PICTURE, RNG, 0, 7.0, 0.5), PICTURE) for _ in range(3))


def test_as_a_preset_of_the_image_transform():
    augment = from_config({"preset": "albef", "size": 16})
    assert (augment.ops, augment.magnitude, augment.flip, augment.scale) == (2, 7.0, 0.5, (0.2, 1.0))
    out = augment(PICTURE, np.random.default_rng(3))
    assert out.shape == (16, 16, 3) and out.dtype == np.uint8
    np.testing.assert_array_equal(out, augment(PICTURE, np.random.default_rng(3)))
    with pytest.raises(UserError, match="magnitude"):
        from_config({"preset": "albef", "magnitude": 11.0})
