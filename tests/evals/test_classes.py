import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.base import Tools
from mmjax.evals.classes import indices, load_classes, read_labels, score_ranks, source_classes

TOOLS = Tools(lambda spec: spec, lambda image: image, lambda texts: None)
PICTURE = np.zeros((2, 2, 3), np.uint8)


def test_indices_by_name_and_by_order():
    """The same names in another order decide by name; other names stand for the same classes in the same order."""
    assert indices([0, 1, "b"], ["b", "a"], "label", ["a", "b"]).tolist() == [1, 0, 0]
    assert indices([0, 1], ["cat", "dog"], "label", ["n01", "n02"]).tolist() == [0, 1]
    assert indices([0, 1], ["c", "b", "a"], "label", ["a", "b"]).tolist() == [2, 1]
    with pytest.raises(UserError, match=r"the source has 2 classes \(a, b\), and 3 names are given \(x, y, z\)"):
        indices([0], ["x", "y", "z"], "label", ["a", "b"])
    with pytest.raises(UserError, match="kind 'c' and 1 more are not classes"):
        indices(["c", "d", "a"], ["a", "b"], "kind")


def test_labels_of_every_type():
    source = [{"image": PICTURE, "label": label} for label in (1, np.int64(2), 3.0, "four")]
    assert read_labels(source, "label", TOOLS)[1] == [1, 2, 3, "four"]
    for wrong in (None, float("nan"), 1.5, [1]):
        with pytest.raises(UserError, match="a label is the index of a class, or its name"):
            read_labels([{"image": PICTURE, "label": wrong}], "label", TOOLS)


def test_a_source_that_names_no_classes():
    class Unnamed(list):
        def class_names(self):
            raise UserError("does not name its classes")

    assert source_classes(Unnamed()) is None and source_classes([]) is None


def test_a_file_of_names_that_is_not_text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xff\xfecat")
    with pytest.raises(UserError, match="is not UTF-8"):
        load_classes(str(path))
    path.write_bytes("\ufeffcat\r\n\r\ndog\n".encode())  # as some editors write
    assert load_classes(str(path)) == ("cat", "dog")


def test_a_tie_is_a_mistake():
    scores = np.asarray([[1, 1, 0], [2, 1, 0], [-np.inf, 1, -np.inf]], np.float32)
    assert score_ranks(scores, np.asarray([0, 0, 2])).tolist() == [2, 1, 3]
