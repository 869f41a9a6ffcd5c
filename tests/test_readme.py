"""The Python examples of the README run, and the files that it points to exist."""

import pathlib
import re
import shlex

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from mmjax import cli, systems
from mmjax.core import config
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import open_tokenizer
from mmjax.train import checkpoint
from tests.data import own_data

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", README, re.S)
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)

TINY = {
    "name": "clip",
    "embed_dim": 8,
    "img": {"image_size": 32, "patch": 16, "width": 16, "depth": 1, "heads": 2},
    "txt": {"vocab": 49408, "length": 16, "width": 16, "depth": 1, "heads": 2},
}


@pytest.fixture
def demo_run(tmp_path, monkeypatch):
    """A working directory in which runs/demo is a checkpoint, as the examples expect."""
    batch = {
        "image": jnp.zeros((1, 32, 32, 3), jnp.uint8),
        "ids": jnp.zeros((1, 16), jnp.int32),
        "valid": jnp.ones((1, 16), bool),
    }
    variables = nn.unbox(jax.jit(systems.build(TINY).init)(jax.random.key(0), batch))
    checkpoint.save_model(tmp_path / "runs/demo", TINY, variables, tokenizer=open_tokenizer("clip_bpe"))
    monkeypatch.chdir(tmp_path)


def section(title: str) -> list[list[str]]:
    """The words of every command in a section."""
    text = re.split(r"^##+ ", README.partition(f"## {title}\n")[2], maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def test_evaluate_and_search(demo_run, tmp_path, monkeypatch, capsys):
    """The commands as they stand, on fewer examples."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = open_source("emoji:test?style=fluent")
    (tmp_path / "names.txt").write_text("\n".join(source.class_names()))
    (tmp_path / "prompts.txt").write_text("a drawing of {}\n{}\n")
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate(("one", "two", "three", "four", "five", "six")):
        Image.fromarray(source[i]["images"][0]).save(tmp_path / "pictures" / f"{name}.png")
    commands = section("Evaluate and search")
    assert {words[1] for words in commands} == {"eval", "embed", "search"} and len(commands) == 7
    for words in commands:
        few = ["--limit", "12"] if words[1] != "search" else []
        assert cli.main([*words[1:], *few]) == 0, (words, capsys.readouterr().err)
    assert capsys.readouterr().out.rstrip().splitlines()[-3].split() == ["1", "1.000", "one.png"]
    for file in ("retrieval.json", "reports/retrieval/report.html", "reports/probe/report.html", "emoji.npy",
                 "emoji.json", "names.parquet", "found.html"):  # fmt: skip
        assert (tmp_path / file).stat().st_size > 0


def test_write_and_clean_take_these_arguments():
    """Models that write take minutes to train: the commands are parsed here, and run in their own tests."""
    commands = section("Write and clean")
    assert [words[1] for words in commands] == ["train", "generate", "capfilt"]
    (_, _, *train), *others = commands
    assert (ROOT / train[train.index("--config") + 1]).is_file()
    workdir = train[train.index("--workdir") + 1]
    for words in others:
        args = cli.make_parser(words[1]).parse_args(words[1:])
        assert str(getattr(args, "captioner", "")) + str(getattr(args, "checkpoint", "")) == workdir


def test_there_are_examples():
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number, demo_run, capsys):
    names: dict = {}
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), names)
    if "print" in EXAMPLES[number]:
        assert names["img"].shape == (1, 8) and names["txt"].shape == (2, 8)
        assert capsys.readouterr().out.startswith("[[")
    else:
        assert names["shapes"]["params"]["img_proj"]["kernel"].shape == (768, 512)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_exist(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8"))
    missing = [link for link in links if not (ROOT / link).exists()]
    assert links and not missing, missing


def test_commands_name_existing_files():
    named = set(re.findall(r"\b(?:configs|tests)/[\w/.]+", " ".join(SHELL)))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert named and not missing, missing


def test_commands_parse():
    lines = [shlex.split(line, comments=True) for block in SHELL for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["mmjax"]]
    assert {words[0] for words in commands} == set(cli.COMMANDS)
    for words in commands:
        args, overrides = cli.make_parser(words[0]).parse_known_args(words)
        assert all(word.startswith("--config.") for word in overrides)
        if hasattr(args, "config"):
            config.load(ROOT / args.config, overrides)


def test_data_commands_run(tmp_path, monkeypatch, capsys):
    """On 64 pairs, some of them broken, as `pairs.jsonl`; the last command reads what the second one wrote."""
    own_data.write_jsonl(own_data.make_pairs(64, own_data.spread(64)), tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True)[1:] for line in "".join(SHELL).splitlines() if "mmjax data " in line]
    assert [words[1] for words in lines] == ["inspect", "convert", "inspect"]
    outputs = []
    for words in lines:
        assert cli.main(words) == 0
        outputs.append(capsys.readouterr().out)
    assert "64, 55 usable" in outputs[0] and (tmp_path / "looked" / "contact.png").is_file()
    assert "55 records in 8 shards" in outputs[1] and "opens as: arrayrecord:shards\n" in outputs[1]
    assert "items       55, 55 usable" in outputs[2]
