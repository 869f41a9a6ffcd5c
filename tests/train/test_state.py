"""What a state holds: gradients, moments and averages for what trains, and nothing for the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.train.optim import make_optimizer
from mmjax.train.stage import Stage
from mmjax.train.state import begin

VARIABLES = {
    "params": {"img": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}, "txt": {"w": jnp.full((4,), 2.0)}},
    "batch_stats": {"img": {"mean": jnp.zeros(3)}},
}


def start(**settings):
    stage = Stage(steps=3, lr=0.1, **settings)
    trainable, _ = trees.split(VARIABLES["params"], stage.train, "train")
    return begin(stage, make_optimizer(stage, trainable), VARIABLES, jax.random.key(0))


def paths(tree):
    return {trees.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_only_what_trains_has_optimizer_state():
    state = start(train=("txt/.*",))
    assert trees.flatten(state.params).keys() == {"txt/w"} and trees.flatten(state.frozen).keys() == {"img/w", "img/b"}
    moments = {path for path in paths(state.opt) if path.endswith(("/w", "/b"))}
    assert {path.split("/", 2)[-1] for path in moments} == {"txt/w"} and len(moments) == 2  # mu and nu
    assert state.step == 0 and state.stats == {"batch_stats": VARIABLES["batch_stats"]} and state.teacher == {}


def test_variables_put_everything_together():
    state = start(train=("txt/.*",), teacher=("img/.*",))
    both = state.variables()
    assert jax.tree.structure(both) == jax.tree.structure(VARIABLES)
    state = state.replace(teacher=jax.tree.map(lambda x: x + 5, state.teacher))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.variables("student"), VARIABLES))
    taught = state.variables("teacher")["params"]
    np.testing.assert_array_equal(taught["img"]["w"], 6.0)
    np.testing.assert_array_equal(taught["txt"]["w"], 2.0)  # not averaged: the student's


def test_a_teacher_begins_as_a_copy():
    state = start(teacher=("txt/.*",))
    assert trees.flatten(state.teacher).keys() == {"txt/w"}
    assert state.teacher["txt"]["w"] is not state.params["txt"]["w"]  # both are donated to the step
    np.testing.assert_array_equal(state.teacher["txt"]["w"], state.params["txt"]["w"])


def test_dead_patterns():
    with pytest.raises(UserError, match=r"train \['text/\.\*'\] matches no parameter; .*\['img', 'txt'\]"):
        start(train=("text/.*",))
    with pytest.raises(UserError, match=r"teacher \['fusion/\.\*'\] matches no parameter"):
        start(teacher=("fusion/.*",))
