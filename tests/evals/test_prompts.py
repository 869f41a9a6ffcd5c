import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals import prompts
from mmjax.evals.base import Predictor


class Lengths(Predictor):
    """A predictor that embeds a text as (number of letters, number of words), and counts what it was asked."""

    def __init__(self):
        self.asked = 0

    def embed_text(self, ids, valid):
        self.asked += len(ids)
        return ids.astype(np.float32)


def tokenize(texts):
    ids = np.asarray([[len(t.replace(" ", "")), len(t.split())] for t in texts], np.int32)
    return ids, np.ones_like(ids, bool)


def unit(*x):
    return np.asarray(x) / np.linalg.norm(x)


def test_a_text_is_encoded_once():
    predictor = Lengths()
    features = prompts.embed_texts(predictor, tokenize, ["a b", "abc", "a b"])
    np.testing.assert_array_equal(features, [[2, 2], [3, 1], [2, 2]])
    assert predictor.asked == 2


def test_ensemble_by_hand():
    got = prompts.embed_ensemble(Lengths(), tokenize, ["ox", "zebra"], ("{}", "a big {}"))
    for row, letters in zip(got, (2, 5), strict=True):
        mean = unit(letters, 1) + unit(letters + 4, 3)
        np.testing.assert_allclose(row, unit(*mean), rtol=1e-6)
    assert abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-6


def test_templates_from_name_list_and_file(tmp_path):
    assert prompts.load_templates("plain") == ("{}",)
    assert prompts.load_templates(["a {}", "{}"]) == ("a {}", "{}")
    path = tmp_path / "templates.txt"
    path.write_text("one {}\n\n two {} \n")
    assert prompts.load_templates(str(path)) == ("one {}", "two {}")


def test_every_built_in_set_is_valid():
    for name in prompts.TEMPLATES:
        assert len(set(prompts.load_templates(name))) == len(prompts.TEMPLATES[name])


@pytest.mark.parametrize(
    ("templates", "message"),
    [("phot", "'photo'"), (["a photo"], "exactly once"), (["{} and {}"], "exactly once"), ([], "empty")],
)
def test_wrong_templates(templates, message):
    with pytest.raises(UserError, match=message):
        prompts.load_templates(templates)


def test_a_zero_vector_has_no_direction():
    with pytest.raises(UserError, match="1 of 2 embeddings"):
        prompts.normalise(np.asarray([[0, 0], [1, 0]], np.float32))
