"""A run with teacher and queue through the real main: stopped and continued, it ends with the same bits."""

import signal

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmjax import main
from mmjax.core import trees
from mmjax.train import checkpoint, loop
from mmjax.train import stored as stored_step


def config():
    c = ConfigDict()
    c.seed = 3
    c.system = ConfigDict({
        "name": "albef", "task": "pretrain", "embed_dim": 8, "queue": 32, "mask_id": 4, "alpha_steps": 5,
        "img": {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "txt": {"vocab": 400, "length": 12, "width": 16, "depth": 2, "heads": 2, "cross_from": 1, "dropout": 0.1},
    })  # fmt: skip
    c.tokenizer = ConfigDict({"kind": "wordpiece", "train_on": "emoji:val", "vocab_size": 400})
    c.data = ConfigDict({"train": "emoji:val", "batch_size": 16, "image": {"preset": "albef"}, "workers": 0})
    teacher = ["(img|txt)/.*", "(img|txt)_proj/.*"]
    c.stages = ConfigDict({"train": {"steps": 6, "lr": 1e-2, "teacher": teacher, "teacher_decay": 0.9}})
    c.every = ConfigDict({"log": 1, "save": 2, "evaluate": 0})
    c.keep = 9
    return c


def stored(workdir, step):
    tree = stored_step.read(workdir / "checkpoints" / str(step) / "state")
    return {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_continued_in_the_middle_it_equals_the_uninterrupted_run(tmp_path, monkeypatch):
    main.train(config(), tmp_path / "whole")
    seen, finite = [], loop._finite

    def asked(self, together):
        return signal.SIGTERM if len(seen) == 2 else None

    def counted(step, metrics):
        seen.append(step)
        return finite(step, metrics)

    monkeypatch.setattr(loop, "_finite", counted)
    monkeypatch.setattr(loop.StopSignals, "asked", asked)
    with pytest.raises(loop.Interrupted):
        main.train(config(), tmp_path / "cut")
    monkeypatch.undo()
    at = checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1]
    assert at == 3
    main.train(config(), tmp_path / "cut")
    one, two = stored(tmp_path / "whole", 6), stored(tmp_path / "cut", 6)
    assert one.keys() == two.keys()
    assert {"stats/queue/past/img", "stats/queue/past/pointer", "teacher/img/cls"} <= one.keys()
    assert {path for path in one if not np.array_equal(one[path], two[path])} == set()
    first = stored(tmp_path / "whole", 2)
    assert not np.array_equal(first["stats/queue/past/img"], one["stats/queue/past/img"])
    assert not np.array_equal(first["teacher/img/cls"], one["teacher/img/cls"])
