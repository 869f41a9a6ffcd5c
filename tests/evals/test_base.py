import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.core.sharding import make_mesh
from mmjax.evals.base import Predictor


class Means(nn.Module):
    """A system whose embeddings can be worked out by hand."""

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def embed_image(self, image):
        return self.scale * image.astype(jnp.float32).mean(axis=(1, 2))

    def embed_text(self, ids, valid):
        return self.scale * jnp.stack([(ids * valid).sum(axis=1), valid.sum(axis=1)], axis=1).astype(jnp.bfloat16)


VARIABLES = {"params": {"scale": jnp.float32(2)}}


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 2, 3, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 4, 11])
def test_batches_are_padded_and_cut(count):
    images = pictures(count)
    features = Predictor(Means(), VARIABLES, batch_size=4).embed_image(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, 2 * images.mean(axis=(1, 2)), rtol=1e-6)


def test_a_lazy_sequence_equals_an_array():
    images = pictures(5)
    predictor = Predictor(Means(), VARIABLES, batch_size=2)
    np.testing.assert_array_equal(predictor.embed_image(list(images)), predictor.embed_image(images))


def test_text_comes_back_as_float32():
    ids = np.asarray([[3, 4, 0]], np.int32)
    features = Predictor(Means(), VARIABLES).embed_text(ids, ids > 0)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, [[14, 4]])


def test_split_over_a_mesh():
    images = pictures(11)
    predictor = Predictor(Means(), VARIABLES, batch_size=3, mesh=make_mesh({"data": 4, "fsdp": 2}))
    assert predictor.batch_size == 8
    np.testing.assert_allclose(predictor.embed_image(images), 2 * images.mean(axis=(1, 2)), rtol=1e-6)


def test_other_weights_compile_nothing_new():
    predictor = Predictor(Means(), VARIABLES, batch_size=4)
    images = pictures(9)
    first = predictor.embed_image(images)
    other = predictor.replace({"params": {"scale": jnp.float32(4)}})
    np.testing.assert_allclose(other.embed_image(images), 2 * first, rtol=1e-6)
    (compiled,) = other._compiled.values()
    assert compiled._cache_size() == 1


def test_errors_name_the_thing():
    predictor = Predictor(Means(), VARIABLES)
    with pytest.raises(UserError, match=r"no method 'embed_sound'.*embed_image"):
        predictor("embed_sound", pictures(1))
    with pytest.raises(UserError, match="common length"):
        predictor("embed_text", np.zeros((2, 3), np.int32), np.ones((1, 3), bool))
    with pytest.raises(UserError, match="common length above zero"):
        predictor.embed_image(pictures(0))
    with pytest.raises(UserError, match="not finite for 2 of 2"):
        predictor.replace({"params": {"scale": jnp.float32(jnp.nan)}}).embed_image(pictures(2))


def test_texts_padded_on_the_left_or_with_holes_are_refused():
    ids = np.asarray([[3, 4, 0], [0, 3, 4]], np.int32)
    with pytest.raises(UserError, match=r"embed_text: row 1 has its padding on the left: tokens at 1 to 2; .*right"):
        Predictor(Means(), VARIABLES).embed_text(ids, ids > 0)
    with pytest.raises(UserError, match=r"embed_text: row 0 has a hole: tokens from 0 to 2, but not at 1"):
        Predictor(Means(), VARIABLES).embed_text(ids, np.asarray([[1, 0, 1], [1, 1, 1]], bool))
