"""Patterns over "a/b/c" paths: what they select, and the errors of those that select nothing."""

import jax
import numpy as np
import pytest
from flax import struct

from mmjax.core import trees
from mmjax.core.errors import UserError

TREE = {"img": {"patch": {"kernel": 1}, "pos": 2}, "txt": {"pos": 3}, "log_scale": 4}


def test_flatten_and_back():
    flat = trees.flatten(TREE)
    assert flat == {"img/patch/kernel": 1, "img/pos": 2, "txt/pos": 3, "log_scale": 4}
    assert trees.unflatten(flat) == TREE


def test_patterns_match_whole_paths():
    assert trees.matches("img/pos", ["img/.*"])
    assert not trees.matches("img/pos", ["img"])
    assert not trees.matches("img/pos", ["pos"])
    assert not trees.matches("img/pos", [])


def test_split_and_merge():
    towers, rest = trees.split(TREE, ["img/.*", "txt/.*"])
    assert towers == {"img": TREE["img"], "txt": TREE["txt"]} and rest == {"log_scale": 4}
    assert trees.merge(rest, towers) == TREE
    assert trees.split(TREE, [".*"]) == (TREE, {})
    assert trees.split(TREE, []) == ({}, TREE)


def test_merge_goes_leaf_by_leaf_and_the_last_wins():
    assert trees.merge(TREE, {"img": {"pos": 9}})["img"] == {"patch": {"kernel": 1}, "pos": 9}


def test_a_dead_pattern_is_an_error_that_lists_what_there_is():
    with pytest.raises(UserError) as error:
        trees.split(TREE, ["img/.*", "text/.*", "logscale"], "train")
    text = str(error.value)
    assert "train ['text/.*', 'logscale'] matches no parameter" in text
    assert "['img', 'log_scale', 'txt']" in text and "img/patch/kernel" in text
    with pytest.raises(UserError, match=r"p11, … \(20 in all\)"):
        trees.check_patterns([f"p{i:02}" for i in range(20)], ["x"])


def test_a_pattern_that_is_no_expression_is_named():
    with pytest.raises(UserError, match=r"train 'img/\(' is not a regular expression: missing \)"):
        trees.split(TREE, ["img/("], "train")


def test_counts():
    tree = {"img": {"w": np.zeros((2, 3)), "b": jax.ShapeDtypeStruct((3,), np.float32)}, "scale": np.float32(1)}
    assert trees.count(tree) == 10
    assert trees.count_by_module(tree) == {"img": 9, "scale": 1}


def test_path_name_reads_attributes_indices_and_keys():
    @struct.dataclass
    class Node:
        opt: tuple

    ((path, _),) = jax.tree_util.tree_leaves_with_path({"state": Node(({"w": 1},))})
    assert trees.path_name(path) == "state/opt/0/w"
