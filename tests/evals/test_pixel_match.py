import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.data.image import Preprocess
from mmjax.data.sources import open_source
from mmjax.evals.base import Tools
from mmjax.evals.build import build_evaluator
from mmjax.evals.pixel_match import nearest_pixels, pixel_features


def test_nearest_ignores_size_brightness_and_contrast():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (6, 4, 4, 3)) * 200
    queries = (patterns.repeat(4, axis=1).repeat(4, axis=2) // 2 + 30).astype(np.uint8)
    references = patterns[::-1].astype(np.uint8)
    np.testing.assert_array_equal(nearest_pixels(queries, references, size=4), np.arange(6)[::-1])


def test_features_are_centred_unit_vectors_and_blanks_do_not_break_them():
    images = np.stack([np.full((8, 8, 3), 7), np.arange(192).reshape(8, 8, 3)]).astype(np.uint8)
    features = pixel_features(images, 4)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    assert abs(features[1].sum()) < 1e-5


def test_finding_oneself_is_no_baseline():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="3 of 3 queries are among the references"):
        nearest_pixels(images, images)
    with pytest.raises(UserError, match="0 references"):
        nearest_pixels(images, images[:0])


def test_one_emoji_in_four_or_five_is_matched_across_styles():
    tools = Tools(open_source, Preprocess(size=32), lambda texts: None)
    spec = {"kind": "retrieval", "data": "emoji:all?style=fluent", "gallery": "emoji:all", "pixel_match": "emoji:all"}
    baselines = build_evaluator("style", {**spec, "limit": 300}, tools).baselines()
    assert 0.19 < baselines["pixel match"]["style/image_to_text_R@1"] < 0.30
    assert baselines["chance"]["style/image_to_text_R@1"] == pytest.approx(1 / 1911)
