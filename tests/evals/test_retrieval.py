import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Tools
from mmjax.evals.retrieval import Retrieval, RetrievalData, captioned, labelled

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}


def picture(colour, size=4):
    return np.broadcast_to(np.asarray(COLOURS[colour], np.uint8), (size, size, 3)).copy()


class ByColour(Predictor):
    """A predictor whose embeddings are mean colours; a text is embedded as the colours that it names."""

    def __init__(self):
        pass

    def embed_image(self, images):
        return np.stack([images[i].mean(axis=(0, 1)) for i in range(len(images))]).astype(np.float32)

    def embed_text(self, ids, valid):
        colours = np.asarray(list(COLOURS.values()), np.float32)
        return np.stack([colours[row[ok]].sum(axis=0) for row, ok in zip(ids, valid, strict=True)])


def tokenize(texts):
    ids, valid = np.zeros((len(texts), 3), np.int32), np.zeros((len(texts), 3), bool)
    for row, text in enumerate(texts):
        named = [i for i, colour in enumerate(COLOURS) if colour in text]
        ids[row, : len(named)], valid[row, : len(named)] = named, True
    return ids, valid


TOOLS = Tools(open_source=lambda spec: SOURCES[spec], preprocess=lambda image: image, tokenize=tokenize)
SOURCES = {
    "captions": [
        {"image": picture("red"), "texts": ["red", "a red one"], "key": "a"},
        {"image": picture("green"), "texts": ["blue"], "key": "b"},  # wrong on purpose
        {"image": picture("blue"), "texts": ["green blue"], "key": "c"},
    ],
    "labels": [
        {"images": [picture("red"), picture("grey")], "texts": ["red", "rot"], "concept": "r"},
        {"images": [picture("green")], "texts": ["green"], "concept": "g"},
        {"images": [picture("red")], "texts": ["crimson red"], "concept": "r"},
        {"images": [picture("blue")], "texts": ["blue"], "concept": "b"},
    ],
    "queries": [{"image": picture("red"), "texts": ["x"], "concept": "r"}],
    "other": [{"image": picture("red", 5), "texts": ["x"], "concept": c} for c in ("r", "unknown")]
    + [{"image": picture("green", 5), "texts": ["x"], "concept": "g"}],
}


def test_recall_by_hand_in_both_directions():
    evaluator = Retrieval("toy", captioned(SOURCES["captions"], TOOLS), tokenize, ks=(1, 2), resamples=200)
    got = dict(evaluator.run(ByColour()))
    # Similarities to the texts (red, a red one, blue, green blue):
    #   red   1, 1, 0, 0      right: 0, 1   rank 1
    #   green 0, 0, 0, .7     right: 2      rank 4: two ties count against it
    #   blue  0, 0, 1, .7     right: 3      rank 2
    assert got["toy/image_to_text_R@1"] == pytest.approx(1 / 3)
    assert got["toy/image_to_text_R@2"] == pytest.approx(2 / 3)
    assert got["toy/image_to_text_median_rank"] == 2
    # Texts to images: red 1, a red one 1, blue (right: green, ties with red) 3, green blue (ties with green) 2.
    assert got["toy/text_to_image_R@1"] == pytest.approx(2 / 4)
    assert got["toy/text_to_image_R@2"] == pytest.approx(3 / 4)
    assert got["toy/text_to_image_median_rank"] == 1.5
    for key in ("image_to_text_R@1", "text_to_image_R@2"):
        assert got[f"toy/{key}_lo"] <= got[f"toy/{key}"] <= got[f"toy/{key}_hi"]
    assert got["toy/image_to_text_R@1_lo"] < got["toy/image_to_text_R@1_hi"]


def test_texts_that_read_the_same():
    source = [{"image": picture(c), "texts": [t]} for c, t in (("red", "red"), ("grey", "red"), ("blue", "blue"))]
    shared, separate = (captioned(source, TOOLS, duplicates=d) for d in ("shared", "separate"))
    assert sorted(map(tuple, shared.pairs)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    assert sorted(map(tuple, separate.pairs)) == [(0, 0), (1, 1), (2, 2)]
    first, second = (dict(Retrieval("n", d, tokenize, resamples=0).run(ByColour())) for d in (shared, separate))
    assert first["n/text_to_image_R@1"] == 1
    assert second["n/text_to_image_R@1"] == pytest.approx(2 / 3)


def test_labels_of_a_gallery_are_matched_by_concept():
    data = labelled(SOURCES["queries"], SOURCES["labels"], TOOLS)
    assert list(data.texts) == ["red", "green", "blue"]  # one per concept: its first text
    np.testing.assert_array_equal(data.pairs, [[0, 0]])
    np.testing.assert_array_equal(data.text_images[1], picture("green"))
    asks, answers, count = data.answers("text_to_image")  # green and blue are distractors and ask nothing
    np.testing.assert_array_equal(asks, [0])
    np.testing.assert_array_equal((answers[0, 0], count[0]), (0, 1))
    got = dict(Retrieval("n", data, tokenize, resamples=0).run(ByColour()))
    assert got["n/image_to_text_R@1"] == 1
    assert "n/image_to_text_R@1_lo" not in got


def test_every_alternative_picture_asks():
    data = labelled(SOURCES["labels"], SOURCES["labels"], TOOLS)
    assert len(data.images) == 5
    np.testing.assert_array_equal(data.pairs, [[0, 0], [1, 0], [2, 1], [3, 0], [4, 2]])


def test_baselines():
    queries = [SOURCES["queries"][0], {"image": np.rot90(np.tri(4, dtype=np.uint8) * 200)[..., None].repeat(3, 2),
                                       "texts": ["x"], "concept": "g"}]  # fmt: skip
    data = labelled(queries, SOURCES["labels"], TOOLS, references=SOURCES["other"])
    np.testing.assert_array_equal(data.reference_texts, [0, 1])  # the unknown concept is left out
    baselines = Retrieval("n", data, tokenize, ks=(1, 5), resamples=100).baselines()
    assert baselines["chance"]["n/image_to_text_R@1"] == pytest.approx(1 / 3)
    assert baselines["chance"]["n/image_to_text_R@5"] == 1
    match = baselines["pixel match"]
    assert match["n/image_to_text_R@1_lo"] <= match["n/image_to_text_R@1"] <= match["n/image_to_text_R@1_hi"]
    assert match["n/image_to_text_R@1"] >= 0.5  # the red one is found


def test_limit_spreads_over_the_source():
    source = [{"image": picture("red"), "texts": [f"red {i}"]} for i in range(10)]
    assert list(captioned(source, TOOLS, limit=4).texts) == ["red 0", "red 3", "red 6", "red 9"]


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"concept 'g' of example 0 is not in the gallery of 1"):
        labelled([SOURCES["labels"][1]], SOURCES["queries"], TOOLS)
    with pytest.raises(UserError, match=r"no 'family' to match by; its keys are \['concept'"):
        labelled(SOURCES["queries"], SOURCES["labels"], TOOLS, match="family")
    with pytest.raises(UserError, match="'k1' has no text"):
        captioned([{"image": picture("red"), "texts": [], "key": "k1"}], TOOLS)
    with pytest.raises(UserError, match="outside 1 images and 1 texts"):
        RetrievalData([picture("red")], ["red"], np.asarray([[0, 1]]))
    with pytest.raises(UserError, match="at least one pair"):
        RetrievalData([picture("red")], ["red"], np.zeros((0, 2), np.int64))
