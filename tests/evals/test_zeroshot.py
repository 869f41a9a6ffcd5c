import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.base import Predictor, Tools
from mmjax.evals.zeroshot import ZeroShot, build, load_classes

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
ANGLE = dict(zip(CLASSES, np.linspace(0, np.pi, 6), strict=True))


def tokenize(texts):
    """(class, whether a prompt surrounds it)."""
    ids = [[next(i for i, c in enumerate(CLASSES) if c in text), int(text not in CLASSES)] for text in texts]
    return np.asarray(ids, np.int32), np.ones((len(texts), 2), bool)


class Directions(Predictor):
    """Images hold an angle in degrees; a text is the direction of its class, turned by 30 degrees when prompted."""

    def __init__(self):
        pass

    def embed_image(self, images):
        angles = np.radians([int(images[i][0, 0, 0]) for i in range(len(images))])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def embed_text(self, ids, valid):
        angles = np.asarray(list(ANGLE.values()))[ids[:, 0]] + np.radians(30) * ids[:, 1]
        length = 1.0 + 6.0 * ids[:, 1]  # lengths must not matter: every template counts the same
        return (np.stack([np.cos(angles), np.sin(angles)], 1) * length[:, None]).astype(np.float32)


def at(degrees):
    return np.full((2, 2, 3), degrees, np.uint8)


def evaluator(degrees, labels, templates=("{}",), **options):
    images = [at(d) for d in degrees]
    return ZeroShot("z", images, np.asarray(labels), CLASSES, templates, tokenize, resamples=100, **options)


def test_accuracy_by_hand():
    # Classes lie at 0, 36, 72, 108, 144, 180 degrees.
    got = dict(evaluator([1, 40, 70, 74], [0, 1, 3, 2], per_class=True).run(Directions()))
    assert got["z/top1"] == 0.75
    assert got["z/top5"] == 1
    assert got["z/top1_lo"] <= 0.75 <= got["z/top1_hi"]
    assert got["z/mean_per_class"] == 0.75
    assert (got["z/class/ant"], got["z/class/dog"]) == (1, 0)


def test_mean_per_class_weighs_classes_alike():
    got = dict(evaluator([1, 2, 3, 100], [0, 0, 0, 2]).run(Directions()))
    assert (got["z/top1"], got["z/mean_per_class"]) == (0.75, 0.5)


def test_the_ensemble_lies_between_its_prompts():
    # Averaged with its prompted form, every class turns by 15 degrees: the border of ant and bee moves from 18 to 33.
    assert dict(evaluator([31, 35], [0, 1]).run(Directions()))["z/top1"] == 0.5
    assert dict(evaluator([31, 35], [0, 1], ("{}", "a {}")).run(Directions()))["z/top1"] == 1


def test_baselines_and_mistakes():
    assert evaluator([1], [0]).baselines() == {"chance": {"z/top1": 1 / 6, "z/top5": 5 / 6}}
    with pytest.raises(UserError, match=r"labels span 0 … 6, but there are 6 classes"):
        evaluator([1, 2], [0, 6])
    with pytest.raises(UserError, match="1 images and 2 labels"):
        evaluator([1], [0, 1])


def test_classes_from_a_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("ant\nbee\n")
    assert load_classes(str(path)) == ("ant", "bee")
    with pytest.raises(UserError, match="not a file"):
        load_classes(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=r"repeated: \['ant'\]"):
        load_classes(["ant", "bee", "ant"])


def test_build_takes_indices_and_names():
    source = [{"image": at(1), "label": 0}, {"images": [at(37), at(38)], "label": "bee"}]
    tools = Tools(lambda spec: source, lambda image: image, tokenize)
    built = build("z", {"data": "x", "classes": CLASSES, "templates": ["{}"]}, tools)
    np.testing.assert_array_equal(built.labels, [0, 1, 1])
    assert dict(built.run(Directions()))["z/top1"] == 1
    with pytest.raises(UserError, match="names no classes"):
        build("z", {"data": "x"}, tools)
    with pytest.raises(UserError, match="has no 'kind'"):
        build("z", {"data": "x", "classes": CLASSES, "label": "kind"}, tools)
    source.append({"image": at(1), "label": "gnu"})
    with pytest.raises(UserError, match="label 'gnu' is not a class"):
        build("z", {"data": "x", "classes": CLASSES}, tools)
