"""config.init: whole checkpoints, parts of them, what is left at random, and what is refused."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from mmjax import initial, inputs, systems
from mmjax.checks import check_trained
from mmjax.commands import models
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.core.placement import Placer
from mmjax.core.stacking import stack_blocks, unstack_blocks
from mmjax.train import checkpoint
from mmjax.train.stage import make_stage

IMG = {"image_size": 16, "patch": 8, "width": 16, "depth": 3, "heads": 2}
TXT = {"vocab": 20, "length": 6, "width": 8, "depth": 1, "heads": 2}
SYSTEM = {"name": "clip", "embed_dim": 8, "img": IMG, "txt": TXT}


def numbers(system: dict, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in models.shapes(system).items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("saved") / "hf"
    model = models.Model(SYSTEM, trees.unflatten(numbers(SYSTEM, 1)), "mmjax", None, None, None, "")
    models.save(model, "hf", folder)
    return folder


def begin(init: object, system: dict | None = None, mesh: dict | None = None) -> tuple[dict, dict, str]:
    """(random start, variables, account), numbered blocks."""
    system = system or SYSTEM
    built, at = systems.build(system), shd.make_mesh(mesh)
    size, length = system["img"]["image_size"], system["txt"]["length"]
    batch = {"image": np.zeros((1, size, size, 3), np.uint8), "ids": np.zeros((1, length), np.int32)}
    batch["valid"] = np.ones((1, length), bool)
    boxed = jax.eval_shape(lambda: built.init(jax.random.key(0), batch))
    shardings = {name: shd.param_shardings(tree, at) for name, tree in boxed.items()}
    abstract = shd.unbox(boxed)
    leaves = {path: np.full(leaf.shape, 7, np.float32) for path, leaf in trees.flatten(abstract).items()}

    def random() -> dict:
        return jax.tree.map(jax.device_put, trees.unflatten(leaves), shardings)

    with shd.use_mesh(at):
        made, account = initial.load({"init": init, "system": system, "seed": 0}, abstract, shardings, random)
    for path, leaf in trees.flatten(made).items():
        assert leaf.sharding.is_equivalent_to(trees.flatten(shardings)[path], leaf.ndim), path
    plain = jax.tree.map(np.asarray, made)
    return trees.flatten(unstack_blocks(trees.unflatten(leaves))), trees.flatten(unstack_blocks(plain)), account


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("mesh", [None, {"fsdp": 4, "tensor": 2}])
def test_a_whole_checkpoint_lands_where_it_belongs(scan: bool, mesh: dict | None, saved: pathlib.Path) -> None:
    _, made, account = begin(str(saved), {**SYSTEM, "scan": scan}, mesh)
    expected = numbers(SYSTEM, 1)
    assert made.keys() == expected.keys() and all(np.array_equal(made[path], expected[path]) for path in made)
    assert "nothing is left at random" in account and "(hf)" in account


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("stored", ["numbered", "stacked"])
def test_own_checkpoints_are_read_straight_to_their_devices(
    scan: bool, stored: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array of them is whole on the host, but the positions, which may have to be resized."""
    variables = trees.unflatten(numbers(SYSTEM, 1))
    system = {**SYSTEM, "scan": stored == "stacked"}
    checkpoint.save_model(tmp_path, system, stack_blocks(variables) if stored == "stacked" else variables)
    through_host = []

    def placed(placer: Placer, path: str, array: object, original: Callable = Placer.__call__) -> None:
        if not isinstance(array, jax.Array):
            through_host.append(path)
        elif stored == ("stacked" if scan else "numbered") and path in placer._shardings:
            assert array.sharding.is_equivalent_to(placer._shardings[path], array.ndim)
        original(placer, path, array)

    monkeypatch.setattr(Placer, "__call__", placed)
    _, made, _ = begin(str(tmp_path), {**SYSTEM, "scan": scan}, {"fsdp": 4, "tensor": 2})
    expected = numbers(SYSTEM, 1)
    assert made.keys() == expected.keys() and all(np.array_equal(made[path], expected[path]) for path in made)
    assert sorted(through_host) == ["params/img/pos", "params/txt/pos"]


@pytest.mark.parametrize("scan", [False, True])
def test_parts_of_a_checkpoint_and_an_account_of_them(scan: bool, saved: pathlib.Path) -> None:
    init = {"path": str(saved), "load": ("img/.*",), "skip": ("img/transformer/block_2/.*", "img/cls")}
    start, made, account = begin(init, {**SYSTEM, "scan": scan})
    expected = numbers(SYSTEM, 1)
    for path, array in made.items():
        loaded = path.startswith("params/img/") and "block_2" not in path and path != "params/img/cls"
        assert np.array_equal(array, expected[path] if loaded else start[path]), path
    assert "left at random: img 17 (" in account and "txt_proj 1 (64 values)" in account


def test_the_other_tower_may_compute_otherwise(saved: pathlib.Path) -> None:
    system = {**SYSTEM, "img": {**IMG, "act": "gelu"}}
    start, made, _ = begin({"path": str(saved), "load": ("txt/.*",)}, system)
    expected = numbers(SYSTEM, 1)
    for path, array in made.items():
        assert np.array_equal(array, (expected if path.startswith("params/txt/") else start)[path]), path


def test_two_checkpoints_and_new_names(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = {**SYSTEM, "img": {**IMG, "depth": 1}}
    folder = tmp_path / "mmjax"
    models.save(models.Model(other, trees.unflatten(numbers(other, 2)), "mmjax", None, None, None, ""), "mmjax", folder)
    init = [
        {"path": str(saved), "load": (r"txt.*", "log_scale")},
        {
            "path": str(folder),
            "load": r"img/transformer/block_0/.*",
            "rename": {r"(.*)/block_0/(.*)": r"\1/block_2/\2"},
        },
    ]
    start, made, account = begin(init)
    one, two = numbers(SYSTEM, 1), numbers(other, 2)
    for path, array in made.items():
        expected = one if path.startswith(("params/txt", "params/log_scale")) else start
        if "img/transformer/block_2" in path:
            assert np.array_equal(array, two[path.replace("block_2", "block_0")])
        else:
            assert np.array_equal(array, expected[path]), path
    assert "renamed: params/img/transformer/block_0/" in account and "(mmjax)" in account


@pytest.mark.parametrize("scan", [False, True])
def test_what_is_meant_to_be_random(scan: bool, saved: pathlib.Path) -> None:
    system, stage = {**SYSTEM, "scan": scan}, make_stage("s", {"steps": 1, "lr": 1.0, "train": ["txt/.*"]})
    init: list = [{"path": str(saved), "load": ("txt.*", "log_scale"), "skip": ("txt/embed/embedding",)}]
    batch = {"image": np.zeros((1, 16, 16, 3), np.uint8), "ids": np.zeros((1, 6), np.int32)}
    batch["valid"] = np.ones((1, 6), bool)
    params = shd.unbox(jax.eval_shape(lambda: systems.build(system).init(jax.random.key(0), batch)))

    def check(*more: dict) -> None:
        config = {"init": [*init, *more], "system": system}
        check_trained(config, params["params"], [stage], initial.given(config, params))

    with pytest.raises(UserError, match="img, img_proj would keep random weights"):
        check()
    with pytest.raises(UserError, match=r"^img/\S+ and \d+ more arrays would keep"):
        check({"path": "random", "load": ("img_proj/.*", "img/pos")})
    check({"path": "random", "load": ("img.*",)})
    start, made, account = begin([*init, {"path": "random", "load": ("img.*",)}], system)
    expected = numbers(SYSTEM, 1)
    for path, array in made.items():
        loaded = path.startswith(("params/txt", "params/log_scale")) and "embedding" not in path
        assert np.array_equal(array, (expected if loaded else start)[path]), path
    assert "left at random: img " in account


def test_a_larger_vocabulary_and_larger_images(saved: pathlib.Path) -> None:
    system = {**SYSTEM, "txt": {**TXT, "vocab": 23}, "img": {**IMG, "image_size": 32}}
    _, made, account = begin({"path": str(saved), "grow_vocab": True}, system)
    old = numbers(SYSTEM, 1)["params/txt/embed/embedding"]
    new = made["params/txt/embed/embedding"]
    assert np.array_equal(new[:20], old)
    np.testing.assert_allclose(new[20:], np.repeat(old.mean(0, keepdims=True), 3, 0), atol=1e-6)
    assert "20 rows -> 23, the new ones the mean of the old ones" in account
    assert made["params/img/pos"].shape == (17, 16) and "grid 2x2 -> 4x4" in account
    _, noisy, account = begin({"path": str(saved), "grow_vocab": True, "grow_noise": 0.1}, system)
    assert np.ptp(noisy["params/txt/embed/embedding"][20:], axis=0).min() > 0 and "noise of 0.1" in account


@pytest.mark.parametrize("layout", ["hf", "mmjax"])
def test_texts_of_another_length(layout: str, tmp_path: pathlib.Path) -> None:
    """Linear along the table, as open_clip resizes it; the account says so, whatever is loaded."""
    variables = trees.unflatten(numbers(SYSTEM, 1))
    models.save(models.Model(SYSTEM, variables, "mmjax", None, None, None, ""), layout, tmp_path / "it")
    path, old = str(tmp_path / "it"), numbers(SYSTEM, 1)["params/txt/pos"]
    for init in (path, {"path": path, "load": ("txt/.*",)}):
        _, made, account = begin(init, {**SYSTEM, "txt": {**TXT, "length": 12}})
        new = made["params/txt/pos"]  # 6 -> 12: places -0.25 (held at 0), 0.25, 0.75, …, 4.75, 5.25 (held at 5)
        np.testing.assert_allclose(new[[0, 11]], old[[0, 5]], atol=1e-6)
        np.testing.assert_allclose(new[1:11:2], 0.75 * old[:5] + 0.25 * old[1:], atol=1e-6)
        np.testing.assert_allclose(new[2:11:2], 0.25 * old[:5] + 0.75 * old[1:], atol=1e-6)
        assert "params/txt/pos: 6 tokens -> 12, linear without antialias (open_clip)" in account
    _, made, account = begin(path, {**SYSTEM, "txt": {**TXT, "length": 2}})  # places 1 and 4
    np.testing.assert_allclose(made["params/txt/pos"], old[[1, 4]], atol=1e-6)
    assert "6 tokens -> 2," in account
    _, made, account = begin({"path": path, "skip": ("txt/pos",)}, {**SYSTEM, "txt": {**TXT, "length": 2}})
    assert (made["params/txt/pos"] == 7).all() and "tokens ->" not in account


@pytest.mark.parametrize("layout", ["hf", "mmjax"])
def test_the_account_of_larger_images(layout: str, tmp_path: pathlib.Path) -> None:
    variables = trees.unflatten(numbers(SYSTEM, 1))
    models.save(models.Model(SYSTEM, variables, "mmjax", None, None, None, ""), layout, tmp_path / "it")
    _, _, account = begin(str(tmp_path / "it"), {**SYSTEM, "img": {**IMG, "image_size": 32}})
    assert "params/img/pos: grid 2x2 -> 4x4, bicubic" in account and "params/txt/pos" not in account


@pytest.mark.parametrize(
    ("init", "system", "message"),
    [
        ({}, {}, r"config.init.load of .*'imgs/\.\*'"),
        ({"load": ("img/.*",), "skip": ("txt/.*", "nothing")}, {}, "config.init.skip of .*'nothing'"),
        ({"load": ("img/.*",), "skip": (".*",)}, {}, "loads nothing"),
        ({"rename": {"image/(.*)": r"img/\1"}}, {}, "config.init.rename of .*image"),
        ({"rename": {"img/cls": r"img/\2"}}, {}, "invalid group reference"),
        ({"rename": {"img/(cls)": "img/class"}}, {}, r"unused \['params/img/class'\]"),
        ({"rename": {"img/.*bias": "img/cls"}}, {}, "one name to several"),
        ({"wrong": 1}, {}, "config.init.wrong does not exist"),
        ("whole", {"txt": {**TXT, "vocab": 23}}, r"params/txt/embed/embedding: \(20, 8\) for \(23, 8\).*grow_vocab"),
        ("whole", {"img": {**IMG, "depth": 4}}, r"missing \['params/img/transformer/block_3.*takes parts"),
        ({"load": ("img/.*",)}, {"img": {**IMG, "depth": 2}}, r"unused \['params/img/transformer/block_2"),
        ([{"load": ("img/.*",)}, {"load": ("img/cls",)}], {}, r"config.init\[1\] and config.init\[0\] both give"),
        ([3], {}, r"config.init\[0\] is 3"),
        ([{}, {"path": "random", "load": ("img/.*",)}], {}, r"config.init\[1\] and config.init\[0\] both give"),
        ({"path": "random", "rename": {"img/cls": "img/pos"}}, {}, r"config.init.rename is for a checkpoint"),
        ({"path": "random", "load": ("imgs/.*",)}, {}, r"config.init.load of random: .*'imgs/\.\*'"),
        ("whole", {"img": {**IMG, "act": "gelu"}}, "img.act: 'quick_gelu' there, 'gelu' here"),
        ({"load": ("txt/.*",)}, {"txt": {**TXT, "eps": 1e-6}}, "txt.eps: 1e-05 there, 1e-06 here"),
    ],
)  # fmt: skip
def test_mistakes(init: object, system: dict, message: str, saved: pathlib.Path) -> None:
    path = str(saved)
    if init == {}:
        init = {"load": ("imgs/.*",)}
    if init == "whole":
        init = path
    elif isinstance(init, dict):
        init = {"path": path, **init}
    elif isinstance(init, list):
        init = [{"path": path, **item} if isinstance(item, dict) else item for item in init]
    with pytest.raises(UserError, match=message):
        begin(init, {**SYSTEM, **system})


def test_blocks_that_compute_the_same_may_begin_and_train_otherwise() -> None:
    img, txt = {"image_size": 16, "patch": 8}, {"vocab": 40, "length": 6, "mask_id": 4}
    there = {"name": "beit3", "tasks": ("mdm",), "width": 16, "depth": 2, "heads": 2, "img": img, "txt": txt}
    inputs.check_same_computation("A", there, {**there, "init_std": 0.1, "drop_path": 0.2})
    with pytest.raises(UserError, match=r"A is of another system: fusion\.spec\.heads: 2 there, 4 here;"):
        inputs.check_same_computation("A", there, {**there, "heads": 4, "init_std": 0.1})
