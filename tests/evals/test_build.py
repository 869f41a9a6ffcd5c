import numpy as np
import pytest

from mmjax.core.errors import UserError
from mmjax.evals.base import Tools
from mmjax.evals.build import build_evaluator
from mmjax.evals.retrieval import Retrieval

PICTURE = np.zeros((2, 2, 3), np.uint8)
SOURCE = [{"image": PICTURE, "texts": ["a"], "concept": i} for i in range(2)]
TOOLS = Tools(lambda spec: SOURCE, lambda image: image, lambda texts: None)


def test_one_table_of_kinds():
    evaluator = build_evaluator("n", {"kind": "retrieval", "data": "x", "gallery": None, "ks": [1]}, TOOLS)
    assert isinstance(evaluator, Retrieval)
    assert (evaluator.name, evaluator.ks) == ("n", (1,))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"kind": "retreival", "data": "x"},
            r"'retreival' is not one of \[.*'retrieval'.*\]; did you mean 'retrieval'",
        ),
        ({"data": "x"}, "kind None is not one of"),
        ({"kind": "retrieval", "data": "x", "galery": "y"}, r"no option \['galery'\]; valid options: .*'gallery'"),
        ({"kind": "retrieval"}, r"needs the option \['data'\]"),
        ({"kind": "retrieval", "data": "x", "match": "key"}, r"\['match'\] means nothing without"),
        ({"kind": "retrieval", "data": "x", "gallery": "y", "duplicates": "shared"}, r"means nothing with the option"),
        ({"kind": "retrieval", "data": "x", "duplicates": "no"}, r"\['separate', 'shared'\]"),
        ({"kind": "retrieval", "data": "x", "ks": [0]}, "positive"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(UserError, match=message) as raised:
        build_evaluator("unseen", spec, TOOLS)
    assert "evaluator 'unseen'" in str(raised.value)
