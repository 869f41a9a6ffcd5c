import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mmjax.core.errors import UserError
from mmjax.data import emoji, scenes, tfds_builders
from mmjax.data.sources import open_source
from mmjax.data.tfds_builders.emoji_scenes import scenes_builder
from tests.data import own_data

SMALL = {"train": 12, "val": 3, "test": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with few scenes and all emoji of one style, prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    tfds_builders.register()
    config = scenes_builder().config(name="tiny", size=32, seed=5, lengths=SMALL)
    tfds_builders.prepare("mmjax_emoji_scenes", folder, config=config)
    tfds_builders.prepare("mmjax_emoji/fluent", folder)
    assert "tensorflow" not in sys.modules
    return folder


def test_scenes_are_those_of_the_source(prepared):
    version = prepared / "mmjax_emoji_scenes" / "tiny" / "1.0.0"
    for split, length in SMALL.items():
        source = open_source(f"tfds:{version}?split={split}")
        direct = scenes.Scenes(split, size=32, seed=5, length=length)
        assert len(source) == length
        for place in range(length):
            read, made = source[place], direct[place]
            assert (read["key"], read["texts"]) == (made["key"], made["texts"])
            np.testing.assert_array_equal(read["image"], made["image"])
    example = open_source(f"tfds:{version}?extra=boxes,questions/question")[0]
    graph = scenes.Scenes("train", size=32, seed=5, length=12, parts=("graph", "questions"))[0]
    np.testing.assert_array_equal(np.array(example["boxes"], np.float32), graph["boxes"])
    assert example["questions/question"] == [question for question, _, _ in graph["questions"]]


def test_emoji_are_those_of_the_pack(prepared):
    spec = f"tfds:mmjax_emoji/fluent?data_dir={prepared}&split=test"
    source, direct = open_source(spec), open_source("emoji:test?style=fluent")
    assert len(source) == len(direct) == sum("fluent" in one.styles for one in emoji.split_concepts("test"))
    names = source.class_names()
    assert names == emoji.concept_labels("all")
    for place in (0, 7, len(source) - 1):
        read, made = source[place], direct[place]
        np.testing.assert_array_equal(read["image"], made["images"][0])
        assert (read["key"], read["texts"]) == (made["key"], made["texts"])
        assert names[read["label"]] == made["labels"]["en"]


def test_the_librarys_own_call_reads_them(prepared):
    rows = tfds.data_source("mmjax_emoji/fluent", split="val", data_dir=prepared, download=False)
    assert rows[0]["image"].shape == (64, 64, 4) and "tensorflow" not in sys.modules


def test_it_pickles(prepared):
    source = open_source(f"tfds:mmjax_emoji/fluent?data_dir={prepared}&split=val[:10]")
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 10 and copy.record(9) == source.record(9)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tfds", "needs a data set: tfds:NAME"),
        ("tfds:mmjax_emojy", "no data set 'mmjax_emojy'"),
        ("tfds:mmjax_emoji/fluet?data_dir={folder}", "no data set 'mmjax_emoji/fluet'"),
        (
            "tfds:mmjax_emoji/noto?data_dir={folder}",
            r"not prepared: .*python -m mmjax\.data\.tfds_builders mmjax",
        ),
        ("tfds:mmjax_emoji/fluent?data_dir={folder}&split=trian", "unknown split .* valid: .*train.*; did you mean"),
        ("tfds:mmjax_emoji/fluent?data_dir={folder}&split=train[:x]", r"cannot open the split train\[:x\]"),
        ("tfds:mmjax_emoji/fluent?data_dir={folder}&text=txt", r"unknown column text=txt .* valid: .*image"),
        ("tfds:{folder}", r"has no dataset_info\.json: give the folder of a version"),
    ],
)
def test_mistakes(prepared, spec, words):
    with pytest.raises(UserError, match=words):
        open_source(spec.format(folder=prepared))


def test_a_format_without_random_access(prepared, tmp_path):
    spec = own_data.write_tfds(own_data.make_pairs(3, size=8), tmp_path, inside=True)
    info = tmp_path / "pairs" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, which has no random access"):
        open_source(spec)


def test_the_command(tmp_path, monkeypatch, capsys):
    from mmjax.data.tfds_builders import __main__ as command

    arguments = ["it", "mmjax_emoji_scenes/px64_small", "--data_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command.main() == 0
    assert "train 64, val 16, test 16 examples in" in capsys.readouterr().out
    assert len(open_source(f"tfds:mmjax_emoji_scenes/px64_small?data_dir={tmp_path}")) == 64
    monkeypatch.setattr(sys, "argv", ["it", "mmjax_scenes"])
    assert command.main() == 2 and "valid: mmjax_emoji, mmjax_emoji_scenes" in capsys.readouterr().err
