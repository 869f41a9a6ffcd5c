import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmjax.core.errors import UserError
from mmjax.evals.base import LeftOut, Predictor, Tools
from mmjax.evals.classes import Labelled
from mmjax.evals.linear_probe import LinearProbe, build, split

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


class Corner(Predictor):
    """Features are the first pixels of a picture, as they are."""

    def __init__(self):
        self.asked = []

    def __call__(self, method, *inputs):
        self.asked.append(method)
        return np.stack([np.asarray(inputs[0][i], np.float32)[0, :3, 0] / 32 - 4 for i in range(len(inputs[0]))])


def pictures(count, seed, classes=6, spread=22):
    """Three pixels near a place of each class: not quite separable."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(3).uniform(40, 210, size=(6, 3))
    labels = np.arange(count) % classes
    pixels = np.clip(places[labels] + spread * rng.normal(size=(count, 3)), 0, 255).astype(np.uint8)
    return Labelled(list(pixels[:, None, :, None]), labels)


def probe(**options):
    defaults = {"train": pictures(240, 0), "test": pictures(600, 1), "classes": CLASSES, "resamples": 100}
    return LinearProbe("p", **{**defaults, **options})


def test_equals_scikit_learn():
    """With the penalty that was chosen, on training and validation pictures together."""
    evaluator, predictor = probe(), Corner()
    got = dict(evaluator.run(predictor))
    train, test = (predictor("", part.images) for part in (evaluator.train, evaluator.test))
    model = LogisticRegression(C=10.0 ** -got["p/log10_l2"], max_iter=5000, tol=1e-7)
    model.fit(train.astype(np.float64), evaluator.train.labels)
    assert abs(got["p/top1"] - model.score(test, evaluator.test.labels)) <= 1e-3
    assert abs(got["p/top1_train"] - model.score(train, evaluator.train.labels)) <= 1e-3
    right = model.predict_proba(test)[np.arange(600), evaluator.test.labels]
    top5 = ((model.predict_proba(test) >= right[:, None]).sum(axis=1) <= 5).mean()
    assert abs(got["p/top5"] - top5) <= 2e-3
    assert 0.5 < got["p/top1_lo"] < got["p/top1"] < got["p/top1_hi"] < 1
    assert got["p/mean_per_class"] == pytest.approx(got["p/top1"])  # classes of one size
    assert predictor.asked[:2] == ["pool_image", "pool_image"]


def test_the_penalty_is_the_best_on_the_validation_pictures():
    """Few training pictures with two of twelve labels wrong: a weak penalty would fit these, too."""
    train = pictures(30, 5, spread=30)
    outcome = (evaluator := probe(train=train, validation=pictures(300, 6, spread=30))).fit(*evaluator.embed(Corner()))
    best = outcome.tried[0]
    assert best.accuracy == max(each.accuracy for each in outcome.tried)
    assert 1e-6 < best.l2 < 1e6 and best.accuracy > outcome.tried[-1].accuracy  # the strongest comes last
    assert dict(evaluator.score(outcome))["p/log10_l2"] == math.log10(best.l2)
    features = np.concatenate([Corner()("", part.images) for part in (train, evaluator.validation)])
    assert outcome.train_accuracy == pytest.approx(
        (outcome.classifier.logits(features).argmax(axis=1)
         == np.concatenate([train.labels, evaluator.validation.labels])).mean())  # fmt: skip


def test_a_class_without_a_training_picture_is_a_mistake_everywhere():
    got = dict(probe(train=pictures(200, 0, classes=5), per_class=True).run(Corner()))
    assert got["p/class/fox"] == 0 and got["p/class/ant"] > 0.5
    assert got["p/top5"] <= 5 / 6


def test_the_split_is_by_class_and_leaves_one():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 10, 100])
    held = split(labels, 0.2, 0)
    assert [int(held[labels == c].sum()) for c in range(4)] == [0, 1, 2, 20]
    np.testing.assert_array_equal(held, split(labels, 0.2, 0))
    assert (held != split(labels, 0.2, 1)).any()


def test_baselines():
    test = Labelled(pictures(10, 0).images, np.asarray([0] * 7 + [1] * 3))
    train = Labelled(pictures(4, 0).images, np.asarray([1, 1, 1, 0]))
    assert probe(train=train, test=test).baselines() == {
        "chance": {"p/top1": 1 / 6, "p/top5": 5 / 6}, "most frequent class": {"p/top1": 0.3}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "pooling"}, "'pooling' is not one of"),
        ({"share": 1.0}, "between 0 and 1, not at 1.0"),
        ({"test": Labelled([], np.zeros(0, np.int64))}, "p, test: 0 images"),
        ({"classes": CLASSES[:3]}, "labels span 0 … 5, but there are 3 classes"),
        ({"train": pictures(10, 0, classes=1)}, "two classes or more"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        probe(**options)


def test_nothing_to_validate_by():
    with pytest.raises(UserError, match="no picture is left to choose the penalty by"):
        dict(probe(train=pictures(6, 0)).run(Corner()))


class Broken(Exception):
    pass


class Named(list):
    """A source; what is None is broken."""

    def __init__(self, name, rows, classes=None):
        super().__init__(rows)
        self.name = name
        if classes:
            self.class_names = lambda: classes

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise Broken("truncated image")
        return super().__getitem__(index)


def rows(part, names=None):
    return [{"image": part.images[i], "key": str(i), "label": int(k) if names is None else names[k]}
            for i, k in enumerate(part.labels)]  # fmt: skip


def build_from(**sources):
    tools = Tools(sources.__getitem__, lambda image: image, lambda texts: None, (Broken,))
    return lambda **options: build("p", {"data": "test", "train_data": "train", **options}, tools), tools


def test_build_joins_sources_by_the_names_of_their_classes():
    train, test = pictures(60, 0), pictures(30, 1)
    other = tuple(reversed(CLASSES))
    turned = [{**row, "label": 5 - row["label"]} for row in rows(test)]
    made, _ = build_from(train=Named("train", rows(train), CLASSES), test=Named("test", turned, other))
    np.testing.assert_array_equal(made().test.labels, test.labels)
    assert made().classes == CLASSES
    np.testing.assert_array_equal(made(classes=list(other)).test.labels, 5 - test.labels)
    renamed = made(classes=[name.upper() for name in CLASSES])  # other words, in the order of the training source
    np.testing.assert_array_equal(renamed.train.labels, train.labels)
    with pytest.raises(UserError, match=r"has 6 classes .*and 2 names are given"):
        made(classes=["a", "b"])


def test_build_without_names():
    numbers, words = rows(pictures(60, 0)), rows(pictures(30, 1), CLASSES)
    made, _ = build_from(train=Named("train", numbers), test=Named("test", rows(pictures(30, 1))))
    assert made().classes == ("0", "1", "2", "3", "4", "5")
    made, _ = build_from(train=Named("train", rows(pictures(60, 0), CLASSES)), test=Named("test", words))
    assert made(limit=30, features="unit").classes == CLASSES
    made, _ = build_from(train=Named("train", numbers), test=Named("test", words))
    with pytest.raises(UserError, match="some labels are numbers and some are names"):
        made()


def test_examples_that_cannot_be_used_are_left_out_and_told():
    train = rows(pictures(60, 0))
    train[7] = None
    made, tools = build_from(train=Named("train", train), test=Named("test", rows(pictures(30, 1))))
    assert len(made().train.labels) == 59
    assert tools.left_out == [LeftOut("train", 7, "truncated image")]
    made, _ = build_from(train=Named("train", [None, None]), test=Named("test", []))
    with pytest.raises(UserError, match="train: no example of it can be used, the first because of example 0"):
        made()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "class"}, r"example 0 has no 'class'; its keys are \['image', 'key', 'label'\]"),
        ({"label": "image"}, "a label is the index of a class, or its name"),
        ({"tables": "a"}, r"no option \['tables'\]"),
        ({"train_data": None}, r"needs the option \['train_data'\]"),
    ],
)
def test_mistakes_in_options(options, message):
    made, tools = build_from(train=Named("train", rows(pictures(60, 0))), test=Named("test", rows(pictures(30, 1))))
    given = {"data": "test", "train_data": "train", **options}
    with pytest.raises(UserError, match=message):
        build("p", {key: value for key, value in given.items() if value is not None}, tools)
    assert len(made().classes) == 6
