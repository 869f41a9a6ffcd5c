"""The command line: exit codes, and mistakes answered with one line."""

import importlib
import subprocess
import sys

import pytest

import mmjax
from mmjax import cli
from mmjax.core.errors import UserError

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"seed": 0, "data": {"batch_size": 8, "train": ""}, "stages": {"train": {"steps": 1}}})
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(CONFIG)
    return file


def exit_code(*argv):
    try:
        return cli.main(argv)
    except SystemExit as stop:  # argparse
        return stop.code


def train(config, *more):
    return exit_code("train", f"--config={config}", f"--workdir={config.parent / 'run'}", *more)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_can_be_run_and_says_what_it_takes(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert callable(module.run)
    assert exit_code(name, "--help") == 0
    assert "--debug" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in cli.COMMANDS)
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"mmjax {mmjax.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("trian",), "invalid choice: 'trian'"),
        (("train",), "the following arguments are required: --config, --workdir"),
        (("train", "--config=a.py", "--workdir=w", "--steps=3"), "unknown arguments: --steps=3"),
        (("train", "--config=a.py", "--workdir=w", "extra"), "unknown arguments: extra"),
        (("train", "--config=a.py", "--workdir=w", "--config.seed", "3"),
         "--config.seed needs its value behind an equals sign: --config.seed=VALUE"),
        (("verify", "somewhere", "--config.seed=3"), "unknown arguments: --config.seed=3"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_exist(argv, text, capsys):
    assert exit_code(*argv) == 2
    out, err = capsys.readouterr()
    assert text in err and "Traceback" not in err and not out


def test_a_mistake_is_one_line_on_stderr(config, capsys):
    assert train(config, "--config.data.batchsize=3") == 2
    out, err = capsys.readouterr()
    assert err == (
        'mmjax train: config.data.batchsize does not exist; did you mean "batch_size"? '
        "(config.data has: batch_size, train)\n"
    )
    assert not out and not (config.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("--config.data.batch_size=lots", "--config.data.batch_size=lots: invalid literal for int()"),
        ("--config.data.train=emoji:val", "config.system is missing or empty"),
        ("--config.stages.train.lr=1", "config.stages.train.lr does not exist (config.stages.train has: steps)"),
    ],
)
def test_mistakes_in_a_config(config, override, text, capsys):
    assert train(config, override) == 2
    assert capsys.readouterr().err.startswith(f"mmjax train: {text}")


def test_overrides_may_hold_spaces(config, capsys):
    assert train(config, "--config.data.train=a b c") == 2
    assert "config.system is missing" in capsys.readouterr().err


def test_debug_shows_where(config):
    with pytest.raises(UserError, match="does not exist"):
        train(config, "--debug", "--config.data.batchsize=3")


def test_other_errors_keep_their_traceback(config, monkeypatch):
    from mmjax import main

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(main, "train", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        train(config)


def test_interruptions(config, monkeypatch, capsys):
    from mmjax import main
    from mmjax.train.loop import Interrupted

    for error, code in ((Interrupted(15), 143), (Interrupted(2), 130), (KeyboardInterrupt(), 130)):

        def stopped(*_, error=error):
            raise error

        monkeypatch.setattr(main, "train", stopped)
        assert train(config) == code
    assert "SIGTERM: saved; the same command goes on from here\n" in capsys.readouterr().err


def test_as_a_process(config):
    """As installed: no traceback, nothing on stdout; and --help does not wait for jax."""
    wrong = [sys.executable, "-m", "mmjax.cli", "train", "--config", config, "--workdir", config.parent / "w"]
    done = subprocess.run([*wrong, "--config.sead=1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        'mmjax train: config.sead does not exist; did you mean "seed"'
    )
    loaded = """
import sys
from mmjax import cli
try:
    cli.main(["train", "--help"])
except SystemExit:
    print("jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
