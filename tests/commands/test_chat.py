"""`mmjax chat`: questions from a pipe, pictures, a system text, and every mistake."""

import argparse
import io
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import model, systems
from mmjax.commands import chat
from mmjax.core import sharding as shd
from mmjax.core.errors import UserError
from mmjax.data.chat import Conversation
from mmjax.data.tokenizers import SentencePiece
from mmjax.train import checkpoint

SYSTEM = {
    "name": "llava",
    "img": {"image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2, "taps": [-1]},
    "llm": {"vocab": 300, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "init_std": 0.5},
}
TASK = {"kind": "chat", "template": "mistral_instruct"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model that has learned nothing, two pictures, and a checkpoint that does not say its template."""
    path = tmp_path_factory.mktemp("chat")
    words = SentencePiece.train(["a red circle", "what is it ?", "[INST] hello [/INST]"], 282)
    system = systems.build({**SYSTEM, "dtype": "float32"})
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), system.example(1))
    variables = shd.unbox(jax.jit(system.init)(jax.random.key(0), batch))
    config = {"system": SYSTEM, "data": {"task": TASK, "text_length": 120, "batch_size": 1}, "seed": 0}
    checkpoint.save_model(path / "model", SYSTEM, variables, tokenizer=words, config=config)
    checkpoint.save_model(path / "silent", SYSTEM, variables, tokenizer=words)
    for name, value in (("one", 30), ("two", 220)):
        Image.fromarray(np.full((9, 12, 3), value, np.uint8)).save(path / f"{name}.png")
    return path


def parse(folder: pathlib.Path, *words: str, name: str = "model") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return parser.parse_args(["--checkpoint", str(folder / name), "--max-new", "5", *words])


def piped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, text: str, args: argparse.Namespace) -> list:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    capsys.readouterr()
    assert chat.run(args) == 0
    return capsys.readouterr().out.split("\n")[:-1]


def test_questions_from_a_pipe_are_answered_as_generate_answers_them(folder, monkeypatch, capsys) -> None:
    loaded = model.load(folder / "model")
    said = chat.Talk(loaded, {"max_new": 5})
    (whole,) = ["".join(said.say("what is it ?"))]
    assert said.turns == [("what is it ?", whole.strip())] and whole.strip()
    said.show(model.pixels(folder / "one.png"))
    seen = "".join(said.say("a red circle ?"))
    wanted = loaded.generate([folder / "one.png"], "what is it ?", max_new=5)[0]
    lines = piped(monkeypatch, capsys, f"/image {folder}/one.png\nwhat is it ?\n", parse(folder))
    assert lines == [f"({folder}/one.png goes with the next question)", wanted]
    text = f"what is it ?\n\n/image {folder}/one.png\na red circle ?\n/reset\nwhat is it ?\n/quit\nnever read\n"
    lines = piped(monkeypatch, capsys, text, parse(folder))
    assert lines == [whole, f"({folder}/one.png goes with the next question)", seen, "(forgotten)", whole]


def test_pictures_and_the_system_text_stand_where_they_should(folder) -> None:
    loaded = model.load(folder / "model")
    asked: list[Conversation] = []

    class Ask:
        most, known = loaded.tools.ask.most, loaded.tools.ask.known

        def __call__(self, questions, pictures):
            raise AssertionError("conversations go to `talk`")

        def talk(self, talk, pictures):
            asked.append(talk)
            return loaded.tools.ask.talk(talk, pictures)

    tools = chat.dataclasses.replace(loaded.tools, ask=Ask())
    talk = chat.Talk(chat.dataclasses.replace(loaded, tools=tools), {"max_new": 5}, system="a circle")
    for name in ("one", "two"):
        talk.show(model.pixels(folder / f"{name}.png"))
    first = "".join(talk.say("which ?"))
    talk.show(model.pixels(folder / "one.png"))
    "".join(talk.say("and <image> ?"))
    assert asked[0] == Conversation("question 1", [("<image>\n<image>\nwhich ?", None)], "a circle")
    assert asked[1].turns == [("<image>\n<image>\nwhich ?", first.strip()), ("and <image> ?", None)]


def test_sampling_depends_on_the_seed_alone(folder, monkeypatch, capsys) -> None:
    hot = ("--temperature", "3", "--max-new", "9")
    one, again, other = (
        piped(monkeypatch, capsys, "what ?\n", parse(folder, *hot, "--seed", seed)) for seed in ("1", "1", "2")
    )
    assert one == again != other


def test_mistakes(folder, monkeypatch, capsys) -> None:
    for text, said in (("/imagine\n", "/imagine is no command; there are /image PATH"),
                       ("/image nowhere.png\n", "picture nowhere.png"),
                       (f"/image {folder}/one.png\n<image> or <image> ?\n", "2 places for pictures"),
                       ("what is it ? " * 60, "tokens, pictures included; valid: up to 120")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            piped(monkeypatch, capsys, text, parse(folder))
    with pytest.raises(UserError, match=r"does not say how .*give --template, one of v0, v1"):
        piped(monkeypatch, capsys, "Hi.\n", parse(folder, name="silent"))
    assert piped(monkeypatch, capsys, "what is it ?\n", parse(folder, "--template", "mistral_instruct", name="silent"))
    with pytest.raises(UserError, match="unknown chat template: 'mistral'"):
        piped(monkeypatch, capsys, "Hi.\n", parse(folder, "--template", "mistral"))
    with pytest.raises(UserError, match="--top-p is of sampling"):
        piped(monkeypatch, capsys, "Hi.\n", parse(folder, "--top-p", "0.5"))


def test_a_person_is_asked_again_after_a_mistake(folder, monkeypatch, capsys) -> None:
    lines = iter(["/what", "/help", "what is it ?"])

    def read(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert chat.run(parse(folder)) == 0
    out, err = capsys.readouterr()
    assert "/what is no command" in err and out.count("/reset") == 2


@pytest.mark.slow
def test_through_a_real_pipe(folder) -> None:
    command = [sys.executable, "-m", "mmjax.cli", "chat", "--checkpoint", str(folder / "model"), "--max-new", "3"]
    done = subprocess.run(command, input="what is it ?\n/quit\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
