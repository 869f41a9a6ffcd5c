"""Every kind of mistake of tests/mistakes.py: exit code 2, and one line: what, where, and what would be right."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mmjax import cli, systems
from mmjax.core.errors import UserError
from mmjax.data.tokenizers import open_tokenizer
from mmjax.train import checkpoint

spec = importlib.util.spec_from_file_location("mistakes", pathlib.Path(__file__).with_name("mistakes.py"))
assert spec is not None and spec.loader is not None
mistakes = sys.modules["mistakes"] = importlib.util.module_from_spec(spec)  # by its path: tests are no package
spec.loader.exec_module(mistakes)
MISTAKES = mistakes.MISTAKES
# One of each group as users run them, in a process of their own.
AS_PROCESSES = ("misspelt key", "text for the seed", "unknown source", "work directory of another run", "flipped bits",
                "interrupted download")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of the config's system, saved by mmjax."""
    system = mistakes.CONFIG["system"]
    batch = {"image": jnp.zeros((1, 16, 16, 3), jnp.uint8), "ids": jnp.zeros((1, 8), jnp.int32),
             "valid": jnp.ones((1, 8), bool)}  # fmt: skip
    variables = nn.unbox(jax.jit(systems.build(system).init)(jax.random.key(0), batch))
    path = tmp_path_factory.mktemp("saved") / "model"
    checkpoint.save_model(path, system, variables, tokenizer=open_tokenizer("clip_bpe"))
    return path


@pytest.fixture
def prepare(model, golden, tmp_path):
    """Makes the folder that a mistake needs; returns its command line."""

    def make(mistake):
        (tmp_path / "config.py").write_text(mistakes.config_text(mistake.change).replace("{dir}", str(tmp_path)))
        for name in mistake.needs:
            shutil.copytree({"model": model, "hf": golden / "clip" / "hf_a"}[name], tmp_path / name)
        if mistake.setup is not None:
            mistake.setup(tmp_path)
        return [word.replace("{dir}", str(tmp_path)) for word in mistake.argv]

    return make


def exit_code(argv):
    try:
        return cli.main(argv)
    except SystemExit as stop:  # argparse
        return stop.code


def check_line(mistake, code, err):
    assert code == 2, err
    line = err.splitlines()[-1]  # argparse says how to use the command before it
    assert re.search(mistake.says, line), line
    assert re.match(r"mmjax( \w+)?: ", line) and "Traceback" not in err
    if not line.startswith(("mmjax: error:", f"mmjax {mistake.argv[0]}: error:")):
        assert err.count("\n") == 1, err


def test_there_are_many_kinds():
    names = [mistake.name for mistake in MISTAKES]
    assert len(set(names)) == len(names) >= 60 and set(AS_PROCESSES) <= set(names)


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder, less the byte code that Python keeps of a config."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_one_line(mistake, prepare, capsys, tmp_path):
    argv = prepare(mistake)
    before = files_below(tmp_path)
    check_line(mistake, exit_code(argv), capsys.readouterr().err)
    after = files_below(tmp_path)
    # A mistake that is found leaves nothing that would be in the way of the mended command.
    assert before == after, set(after) - set(before)


@pytest.mark.parametrize("name", AS_PROCESSES)
def test_as_a_process(name, prepare):
    mistake = next(mistake for mistake in MISTAKES if mistake.name == name)
    done = subprocess.run([sys.executable, "-m", "mmjax.cli", *prepare(mistake)], capture_output=True, text=True)
    check_line(mistake, done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1


def test_debug_shows_where(prepare):
    mistake = next(mistake for mistake in MISTAKES if mistake.name == "unknown key")
    argv = [*prepare(mistake), "--debug"]
    with pytest.raises(UserError, match=r"config\.sede does not exist"):
        cli.main(argv)
    done = subprocess.run([sys.executable, "-m", "mmjax.cli", *argv], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback (most recent call last)" in done.stderr and "checks.py" in done.stderr


def test_a_work_directory_that_may_not_be_written(prepare, capsys, monkeypatch):
    argv = prepare(mistakes.config("closed", {}, ""))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert exit_code(argv) == 2
    assert re.search(r"run could not be written: Permission denied; name a place in which you may write\n$",
                     capsys.readouterr().err)  # fmt: skip
