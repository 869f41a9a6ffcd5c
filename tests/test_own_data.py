"""Training on pairs of one's own, some of them broken: equal losses from every form, and a ledger that counts each."""

import collections
import json

import pytest
from ml_collections import ConfigDict

from mmjax import inputs, main
from mmjax.core import config as configs
from mmjax.core.errors import UserError
from mmjax.data import ledger
from mmjax.train import checkpoint, writers
from tests.data import own_data

TIMES = {"samples_per_s", "step_s", "input_wait"}  # differ from run to run


def config(spec: str, *, steps: int = 10, batch: int = 16, save: int = 5, **data) -> ConfigDict:
    """A CLIP of a few thousand parameters, its tokenizer trained on the same pairs."""
    return ConfigDict({
        "seed": 3,
        "system": {
            "name": "clip", "embed_dim": 8,
            "img": {"image_size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2},
            "txt": {"vocab": 300, "length": 8, "width": 16, "depth": 1, "heads": 2},
        },
        "tokenizer": {"train_on": spec, "vocab_size": 300},
        "data": {"train": spec, "batch_size": batch, "image": {"preset": "clip"}, "max_bad": 0.3, **data},
        "stages": {"train": {"steps": steps, "lr": 1e-2}},
        "every": {"log": 1, "save": save},
        "keep": 20,
    })  # fmt: skip


def losses(workdir) -> list[dict]:
    rows = writers.read_history(workdir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def entries(workdir) -> list[tuple]:
    """What a ledger tells apart from how its source spells things."""
    return [(item.index, item.reason, item.step) for item in ledger.read(workdir / ledger.FILE)]


def train_in_every_form(pairs, forms, tmp_path, **settings) -> None:
    """Trains on the same pairs in each form; all must give the same losses and count every kind of damage exactly."""
    expected = own_data.expected(pairs)
    runs = {}
    for form in forms:
        spec = own_data.WRITERS[form](pairs, tmp_path / form / "data")
        main.train(config(spec, **settings), tmp_path / form / "run")
        runs[form] = (losses(tmp_path / form / "run"), entries(tmp_path / form / "run"))
        assert {index: reason for index, reason, _ in runs[form][1]} == expected, form
        report = json.loads((tmp_path / form / "run" / "report.json").read_text())
        told = report["settings"]["Data that could not be used"]
        totals = collections.Counter(expected.values())
        assert {name: told[name] for name in totals} == {name: str(count) for name, count in totals.items()}
    first, *others = runs.items()
    for form, found in others:
        assert found == first[1], f"{form} is not {first[0]}"
    assert first[1][0][-1]["dropped"] == len(expected)


def test_three_forms_train_alike(tmp_path, capsys):
    pairs = own_data.make_pairs(64, own_data.spread(64))
    train_in_every_form(pairs, ("jsonl", "webdataset", "arrayrecord"), tmp_path, steps=4, save=0)
    assert capsys.readouterr().out.count("data: 2 empty caption, 2 truncated image, 1 bad text encoding, ") == 3


@pytest.mark.slow
def test_every_form_trains_alike(tmp_path):
    """500 pairs, 5 % of them broken in all ways."""
    pairs = own_data.make_pairs(500, own_data.spread(500))
    assert len(own_data.expected(pairs)) == 25
    train_in_every_form(pairs, own_data.WRITERS, tmp_path, steps=48, batch=40, save=24, max_bad=0.1)


class Killed(BaseException):
    """Nothing catches it."""


def test_evaluators_leave_out_what_cannot_be_used(tmp_path, capsys):
    spec = own_data.write_jsonl(own_data.make_pairs(64, own_data.spread(64)), tmp_path)
    settings = config(spec)
    settings.evals = {"val": {"kind": "retrieval", "data": spec}}
    plain = configs.plain(settings)
    found = inputs.make_evaluators(plain, inputs.make_tokenizer(plain["tokenizer"], None))
    assert len(found["val"].data.images) == 55
    assert f"{spec}: 9 left out (truncated image 2, " in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_ledger(tmp_path, monkeypatch):
    pairs = own_data.make_pairs(64, own_data.spread(64))
    spec = own_data.write_jsonl(pairs, tmp_path / "data")
    main.train(config(spec), tmp_path / "whole")
    whole = (tmp_path / "whole" / ledger.FILE).read_bytes()

    class Writer(writers.JsonlWriter):
        def write(self, step, values):
            if step == 8:
                raise Killed
            super().write(step, values)

    with monkeypatch.context() as patch:
        patch.setitem(writers.WRITERS, "jsonl", Writer)
        with pytest.raises(Killed):
            main.train(config(spec), tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 5
    assert max(step for *_, step in entries(tmp_path / "run")) > 2
    main.train(config(spec), tmp_path / "run")
    assert (tmp_path / "run" / ledger.FILE).read_bytes() == whole
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_too_many_bad_examples_stop_the_run(tmp_path):
    pairs = own_data.make_pairs(64, own_data.spread(64))
    spec = own_data.write_jsonl(pairs, tmp_path / "data")
    says = r"9 of 64 examples \(14\.1%\) could not be used, .*max_bad = 0\.1: 2 empty caption.* The first: jsonl:"
    with pytest.raises(UserError, match=says):
        main.train(config(spec, steps=8, save=2, max_bad=0.1), tmp_path / "run")
    kept = checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert kept and len(entries(tmp_path / "run")) == 9
    main.train(config(spec, steps=8, save=4, max_bad=0.2), tmp_path / "run")  # goes on from there
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 8
    with pytest.raises(UserError, match="max_bad = 2; valid: a share from 0 to 1"):
        main.train(config(spec, max_bad=2), tmp_path / "other")
