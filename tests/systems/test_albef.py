"""ALBEF: the exact parameters of every published form."""

import jax
import pytest

from mmjax import systems
from mmjax.core import sharding as shd
from mmjax.core import trees

# Of the released code, built on the meta device.
PARAMETERS = {
    "pretrain_256": 209_937_725,
    "retrieval_384": 209_560_835,
    "vqa_384": 290_336_058,
    "nlvr2_384": 259_381_250,
    "ve_384": 209_758_467,
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_of_the_published_forms(size):
    system = systems.build({"name": "albef", "size": size})
    made = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), system.example(1, 8))
    assert trees.count(shd.unbox(made)["params"]) == PARAMETERS[size]
