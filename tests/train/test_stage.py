"""Stages from configs: defaults, and errors that name the stage, the field and what is valid."""

import pytest
from ml_collections import ConfigDict

from mmjax.core import config as configs
from mmjax.core.errors import UserError
from mmjax.train.stage import Stage, make_stage


def test_a_stage_of_a_config():
    given = ConfigDict({"steps": 10, "lr": 1e-3, "train": ["txt/.*"], "lr_scale": [["txt/.*", 0.1]], "warmup": 2,
                        "data": {"train": "emoji:train"}})  # fmt: skip
    stage = make_stage("align", configs.plain(given))
    assert (
        stage.train == ("txt/.*",) and stage.lr_scale == (("txt/.*", 0.1),) and stage.data == {"train": "emoji:train"}
    )
    assert (stage.optimizer, stage.schedule, stage.clip, stage.evaluate) == ("adamw", "cosine", 0.0, "student")


def test_one_pattern_needs_no_list():
    stage = make_stage("a", {"steps": 1, "lr": 1, "train": "img/.*", "teacher": ".*", "no_decay": "img/pos"})
    assert (stage.train, stage.teacher, stage.no_decay) == (("img/.*",), (".*",), ("img/pos",))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"weight_decy": 0.1}, r"stages.align.weight_decy does not exist; did you mean 'weight_decay'\?"),
        ({"qqq": 0.1}, r"stages.align.qqq does not exist \(known: \['steps', 'lr', 'tasks'"),
        ({"optimizer": "sgd"}, r"stages.align: optimizer='sgd' is not one of \['adamw', 'lion', 'adafactor'\]"),
        (
            {"schedule": "step"},
            r"align: schedule='step' is not one of \['cosine', 'linear', 'exponential', 'constant'\]",
        ),
        (
            {"schedule": "exponential"},
            r"stages.align: schedule='exponential' with end_lr=0\.0; valid: above 0, up to lr=",
        ),
        ({"evaluate": "ema"}, r"evaluate='ema' is not one of \['student', 'teacher'\]"),
        ({"evaluate": "teacher"}, r"evaluate='teacher' needs teacher patterns"),
        ({"steps": 0}, r"steps=0.*steps and chunks at least 1"),
        ({"warmup": 11}, r"warmup=11.*warmup from 0 to steps"),
        ({"chunks": 0}, r"chunks=0.*steps and chunks at least 1"),
        ({"teacher_decay": 1.5}, r"teacher_decay=1.5 is not between 0 and 1"),
        ({"lr_scale": [["img/.*"]]}, r"stages.align.lr_scale = \[\['img/\.\*'\]\]; valid: a list of pairs"),
        ({"lr_scale": ["img/.*", 0.1]}, "valid: a list of pairs"),
        ({"layers": [["img/.*", 0.1]]}, r"align.layers = .*valid: a list of pairs \(pattern, 'below' or 'above'\)"),
        ({"layers": [["img/.*", "low"]]}, r"stages.align: layers name \['low'\]; valid: 'below' or 'above' the blocks"),
        ({"steps": "many"}, "stages.align.steps = 'many'; valid: int"),
        ({"lr": True}, "stages.align.lr = True; valid: float"),
        ({"train": [1]}, r"stages.align.train = \[1\]; valid: a list of patterns"),
        ({"data": "emoji"}, "stages.align.data = 'emoji'; valid: a mapping"),
    ],
)
def test_wrong_settings(settings, text):
    with pytest.raises(UserError, match=text):
        make_stage("align", {"steps": 10, "lr": 1e-3, **settings})


def test_steps_and_rate_are_required():
    with pytest.raises(UserError, match=r"stages.align needs \['lr', 'steps'\]"):
        make_stage("align", {"train": [".*"]})


def test_a_stage_is_a_value():
    assert Stage(steps=1, lr=0.1) == make_stage("a", {"steps": 1, "lr": 0.1})
