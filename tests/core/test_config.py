"""Configs from files, overrides from the command line, and messages that name the field."""

import pytest
from ml_collections import ConfigDict

from mmjax.core import config as configs
from mmjax.core.errors import UserError

FILE = """
from ml_collections import ConfigDict

def get_config(variant="plain"):
    if variant == "broken":
        raise ValueError("no variant 'broken'")
    c = ConfigDict({"seed": 0, "lr": 1e-3, "title": "", "on": False, "shape": (1, 2)})
    c.data = ConfigDict({"batch_size": 256, "train": "emoji:train", "sources": [{"name": "a"}]})
    c.variant = variant
    return c
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(FILE)
    return file


def message(path, *overrides):
    with pytest.raises(UserError) as error:
        configs.load(path, overrides)
    return str(error.value)


def test_a_file_with_an_argument(path):
    assert configs.load(path).variant == "plain"
    config = configs.load(f"{path}:smoke")
    assert config.variant == "smoke" and config.data.batch_size == 256


def test_overrides_keep_the_type_of_the_field(path):
    given = ("data.batch_size=8", "lr=2", "title=two words", "on=true", "shape=(3, 4, 5)", "data.sources[0].name=b")
    config = configs.load(path, [f"--config.{each}" for each in given])
    assert (config.data.batch_size, config.lr, config.title, config.on) == (8, 2.0, "two words", True)
    assert isinstance(config.lr, float) and config.shape == (3, 4, 5) and config.data.sources[0]["name"] == "b"
    assert configs.load(path).data.batch_size == 256  # nothing is shared between two calls


def test_a_mapping_after_one_of_its_fields(path):
    found = message(path, "--config.data.batch_size=8", "--config.data={'batch_size': 4}")
    assert "config.data is provided after --config.data.batch_size and it will overwrite" in found


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.data.batchsize=8", 'config.data.batchsize does not exist; did you mean "batch_size"? '
                                      "(config.data has: batch_size, sources, train)"),
        ("--config.dat.batch_size=8", 'config.dat does not exist; did you mean "data"? '
                                      "(config has: data, lr, on, seed, shape, title, variant)"),
        ("--config.data.xyz=8", "config.data.xyz does not exist (config.data has: batch_size, sources, train)"),
        ("--config.seed.x=3", "config.seed is 0: it has no field 'x' to set"),
        ("--config.seed=many", "--config.seed=many: invalid literal for int() with base 10: 'many'"),
        ("--config.data.batch_size", "--config.data.batch_size needs a value: --config.data.batch_size=…"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named_in_full(path, override, expected):
    assert message(path, "--config.seed=1", override) == expected


def test_a_missing_file_lists_its_neighbours(path):
    (path.parent / "_shared.py").write_text("")
    text = message(path.with_name("smal.py"))
    assert "smal.py does not exist" in text and str(path) in text and "_shared" not in text
    assert "give a Python file" in message(path.parent / "nowhere" / "x.py")


def test_errors_in_a_file_name_its_line(path):
    assert message(f"{path}:broken") == f"config {path}:broken: ValueError: no variant 'broken' (line 6)"
    path.write_text("def get_config():\n    return {'a': undefined}\n")
    assert message(path) == f"config {path}: NameError: name 'undefined' is not defined (line 2)"


def test_sibling(path):
    path.with_name("_shared.py").write_text("VALUE = 5\n")
    assert configs.sibling(str(path), "_shared").VALUE == 5
    with pytest.raises(UserError, match=r"needs .*_other\.py, which does not exist"):
        configs.sibling(str(path), "_other")


def test_plain_is_what_json_reads_back(path):
    value = configs.plain(ConfigDict({"a": (1, (2.5, "x")), "b": {"c": None, "d": True}}))
    assert value == {"a": [1, [2.5, "x"]], "b": {"c": None, "d": True}} and type(value["b"]) is dict
    with pytest.raises(UserError, match="of type set cannot be stored"):
        configs.plain({"a": {1}})


def test_plain_keeps_the_order_that_was_written():
    config = ConfigDict({"stages": {"second": {}}})
    config.stages.first = {"steps": 1, "lr": 2}
    config.stages.also = {}
    assert list(configs.plain(config)["stages"]) == ["second", "first", "also"]
    assert list(configs.plain(config)["stages"]["first"]) == ["steps", "lr"]


def test_check_keys():
    configs.check_keys("config.data", {"train": 1}, {"train": "", "workers": ""})
    with pytest.raises(UserError, match=r'config.data.worker does not exist; did you mean "workers"\?'):
        configs.check_keys("config.data", {"worker": 1}, ("train", "workers"))
    with pytest.raises(UserError, match=r"config.data.zzz does not exist \(known: train, workers\)"):
        configs.check_keys("config.data", {"zzz": 1}, ("workers", "train"))
