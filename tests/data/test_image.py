import functools

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import UserError
from mmjax.data import augment, image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def smooth(size: int) -> np.ndarray:
    """A sprite without fine detail, opaque in the middle."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    alpha = 255 * (x**2 + y**2 < 0.6)
    return np.stack([100 + 80 * x, 120 + 90 * y, 128 + 60 * x * y, alpha], -1).astype(np.uint8)


def test_composite_by_hand():
    picture = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = [[[200, 100, 0], [10, 20, 30], [48, 36, 24]]]  # 0.2 * colour + 0.8 * background
    np.testing.assert_array_equal(image.composite(picture, (10, 20, 30)), expected)


def test_composite_agrees_with_pil():
    picture = noise(9, 7, 4)
    under = Image.new("RGBA", (7, 9), (255, 255, 255, 255))
    expected = np.array(Image.alpha_composite(under, Image.fromarray(picture)))[..., :3]
    assert np.abs(image.composite(picture).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(50, 50, 3), (61, 40, 3), (40, 61, 3), (33, 97, 3), (20, 31, 3)])
def test_crop_is_resize_then_centre_crop(shape):
    picture, size = noise(*shape), 24
    height, width = shape[:2]
    # torchvision: Resize(24, BICUBIC) then CenterCrop(24)
    if width < height:
        new = (size, int(size * height / width))
    else:
        new = (int(size * width / height), size)
    resized = Image.fromarray(picture).resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    expected = np.array(resized)[top : top + size, left : left + size]
    np.testing.assert_array_equal(image.preprocess(picture, size), expected)


def test_square_and_pad():
    picture = noise(40, 20, 3)
    assert image.preprocess(picture, 16, mode="square").shape == (16, 16, 3)
    padded = image.preprocess(picture, 16, mode="pad", background=(1, 2, 3))
    assert padded.shape == (16, 16, 3)
    tall, wide = picture.shape[:2]
    around = np.full((tall, tall, 3), (1, 2, 3), np.uint8)
    around[:, (tall - wide) // 2 : (tall - wide) // 2 + wide] = picture
    np.testing.assert_array_equal(padded, Image.fromarray(around).resize((16, 16), Image.Resampling.BICUBIC))
    assert (padded[:, :2] == [1, 2, 3]).all() and (padded[:, 14:] == [1, 2, 3]).all()
    strip = image.preprocess(np.zeros((2, 40_000, 3), np.uint8), 16, mode="pad", background=(1, 2, 3))
    assert (strip[0] == [1, 2, 3]).all()


@pytest.mark.parametrize("mode", ["square", "pad", "crop"])
def test_bilinear(mode):
    picture = noise(32, 32, 3)
    expected = Image.fromarray(picture).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image.preprocess(picture, 16, mode=mode, resample="bilinear"), expected)
    np.testing.assert_array_equal(image.Preprocess(size=16, mode=mode, resample="bilinear")(picture), expected)
    for make in (image.Preprocess, functools.partial(image.preprocess, picture, 16)):
        with pytest.raises(UserError, match="resample 'nearest'; valid: bicubic, bilinear"):
            make(resample="nearest")


def test_transparent_is_background_and_grey_is_rgb():
    empty = np.zeros([10, 10, 4], np.uint8)
    assert (image.preprocess(empty, 5, background=(7, 8, 9)) == [7, 8, 9]).all()
    grey = noise(10, 10)
    np.testing.assert_array_equal(image.preprocess(grey, 10), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("bad", [np.zeros([4, 4, 3], np.float32), np.zeros([4, 4, 2], np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_image_is_named(bad):
    with pytest.raises(UserError, match=r"cat\.png: expected"):
        image.preprocess(bad, 4, where="cat.png")


def test_no_augmentation_is_the_evaluation_image():
    picture = noise(50, 50, 3)
    for source in (picture, np.dstack([picture, np.full([50, 50], 255, np.uint8)])):
        made = augment.from_config({"size": 24})(source, rng())
        assert np.abs(made.astype(int) - image.preprocess(picture, 24)).max() <= 1
    sprite = smooth(64)
    made = augment.from_config({"size": 32, "fill": (10, 200, 90)})(sprite, rng())
    delta = np.abs(made.astype(int) - image.preprocess(sprite, 32, background=(10, 200, 90)))
    assert delta.mean() < 0.5 and delta.max() < 16  # bicubic overshoot at the edge is cut at another point


@pytest.mark.parametrize("preset", list(augment.PRESETS))
@pytest.mark.parametrize("shape", [(64, 64, 4), (50, 70, 3), (33, 20, 1), (16, 16, 4), (400, 300, 3)])
def test_presets(preset, shape):
    transform = augment.from_config({"preset": preset, "size": 32})
    picture = noise(*shape)
    before = picture.copy()
    one, same, other = transform(picture, rng(1)), transform(picture, rng(1)), transform(picture, rng(2))
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8 and one.flags.c_contiguous
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(picture, before)
    if preset != "none" and not (preset == "clip" and shape[0] == 16):
        assert (one != other).any()


def test_affine_path_agrees_with_resize():
    """A rotation of (nearly) zero takes the other code path to the same picture."""
    sprite = smooth(64)
    straight = augment.Augment(size=32)(sprite, rng())
    turned = augment.Augment(size=32, rotate=1e-9)(sprite, rng())
    assert np.abs(straight.astype(int) - turned).mean() < 3
    large = np.array(Image.fromarray(smooth(64)).resize((512, 512)))
    assert np.abs(straight.astype(int) - augment.Augment(size=32, rotate=1e-9)(large, rng())).mean() < 4


def test_affine_geometry():
    picture = Image.fromarray(smooth(64)).convert("RGBa")
    box = (0.0, 0.0, 64.0, 64.0)
    plain = np.array(augment._affine(picture, 32, box, 0.0, 0.0, False)).astype(int)
    mirrored = np.array(augment._affine(picture, 32, box, 0.0, 0.0, True))
    quarter = np.array(augment._affine(picture, 32, box, 90.0, 0.0, False))
    assert np.abs(plain[:, ::-1] - mirrored).mean() < 2
    # x_source = -y, y_source = x: row y, column x shows what was at row x, column -y
    assert np.abs(plain[:, ::-1].transpose(1, 0, 2) - quarter).mean() < 2
    assert np.abs(plain - quarter).mean() > 10
    quarter_crop = np.array(augment._affine(picture, 16, (32.0, 0.0, 32.0, 32.0), 0.0, 0.0, False))
    assert np.abs(plain[:16, 16:] - quarter_crop).mean() < 2


def test_zoom_out_shows_background_and_never_cuts():
    solid = np.full([32, 32, 3], 200, np.uint8)
    transform = augment.Augment(size=64, scale=(4.0, 4.0), fill=(0, 0, 0))
    for seed in range(8):
        made = transform(solid, rng(seed))
        assert abs((made[..., 0] > 100).sum() - 32 * 32) <= 2 * 64  # a quarter of the area, wherever it lies


def test_premultiplied_edges_have_no_fringe():
    """Colour hidden under transparent pixels must not leak into the edge."""
    sprite = smooth(64)
    other = sprite.copy()
    other[other[..., 3] == 0, :3] = 255 - other[other[..., 3] == 0, :3]
    for transform in (augment.Augment(size=32), augment.Augment(size=32, rotate=30.0)):
        np.testing.assert_array_equal(transform(sprite, rng(3)), transform(other, rng(3)))


def test_color_matrix():
    eye = augment._color_product(0.0, 1.0, 1.0)
    np.testing.assert_allclose(eye, np.eye(3), atol=1e-6)
    grey = augment._color_product(0.0, 0.0, 1.0)
    np.testing.assert_allclose(grey, np.tile([0.299, 0.587, 0.114], (3, 1)), atol=1e-6)
    third = augment._color_product(1 / 3, 1.0, 1.0)
    np.testing.assert_allclose(third @ [1, 0, 0], [0, 1, 0], atol=1e-6)  # red turns to green
    for turn, saturation in ((0.1, 0.5), (0.4, 1.7)):
        mixed = augment._color_product(turn, saturation, 1.0)
        np.testing.assert_allclose(mixed @ [9, 9, 9], [9, 9, 9], rtol=1e-5)
        by_hand = augment._color_product(turn, 1.0, 1.0) @ augment._color_product(0.0, saturation, 1.0)
        np.testing.assert_allclose(mixed, by_hand, atol=1e-6)


def test_grey_erase_flip_noise():
    picture = noise(32, 32, 3)
    grey = augment.Augment(size=32, gray=1.0)(picture, rng())
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1
    flipped = augment.Augment(size=32, flip=1.0)(picture, rng())
    np.testing.assert_array_equal(flipped, picture[:, ::-1])
    erased = augment.Augment(size=32, erase=1.0, erase_area=(0.25, 0.25))(picture, rng())
    assert 0.1 < (erased != picture).any(-1).mean() < 0.4
    noisy = augment.Augment(size=32, noise=1.0, noise_sigma=(10.0, 10.0))(np.full_like(picture, 128), rng())
    assert 9 < noisy.astype(float).std() < 11 and abs(noisy.mean() - 128) < 1


def test_jitter_leaves_the_background():
    empty = np.zeros([16, 16, 4], np.uint8)
    transform = augment.Augment(size=16, brightness=1.0, contrast=1.0, hue=0.5, gray=1.0, shade=1.0, fill=(9, 99, 199))
    assert (transform(empty, rng(5)) == [9, 99, 199]).all()


@pytest.mark.parametrize("kind", augment.BACKGROUNDS)
def test_backgrounds(kind):
    transform = augment.Augment(size=16, backgrounds={kind: 1.0}, fill=(1, 2, 3))
    made = [transform(np.zeros([16, 16, 4], np.uint8), rng(seed)) for seed in range(3)]
    flat = kind in ("fixed", "plain")
    assert all((np.ptp(one.reshape(-1, 3), axis=0).max() == 0) == flat for one in made)
    assert (made[0] != made[1]).any() == (kind != "fixed")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"preset": "clap"}, "clip"),
        ({"scael": (0.9, 1.0)}, "scale"),
        ({"preset": "eval", "rotate": 3.0}, "background"),
        ({"rotate": 400.0}, "from 0.0 to 180.0"),
        ({"scale": (1.0, 0.5)}, "low <= high"),
        ({"scale": 0.5}, "a list of 2 numbers"),
        ({"scale": [0.5]}, "low, high"),
        ({"size": 0}, "at least 1"),
        ({"backgrounds": {"plaid": 1.0}}, "gradient"),
        ({"fill": (300, 0, 0)}, "0 to 255"),
        ({"preset": "eval", "mode": "fit"}, "square"),
    ],
)
def test_mistakes_are_named(config, says):
    with pytest.raises(UserError, match=says):
        augment.from_config(config)


def test_config_may_hold_lists_and_whole_numbers():
    made = augment.from_config({"preset": "clip", "size": 32, "rotate": 10, "scale": [0.5, 1], "fill": [0, 0, 0]})
    assert made == augment.Augment(size=32, rotate=10.0, scale=(0.5, 1.0), fill=(0, 0, 0))
