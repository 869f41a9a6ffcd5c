import argparse
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmjax import model
from mmjax.commands import generate
from mmjax.core.errors import UserError
from mmjax.decoders.settings import Settings
from mmjax.evals.base import Predictor, seeds
from mmjax.inputs import generation_settings, written_text
from mmjax.model import LoadedModel
from tests.evals import toy


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    made = LoadedModel(pathlib.Path("toy"), "toy", {}, toy.Toy(), toy.VARIABLES, toy.WORDS, {}, toy.predictor(2),
                       toy.tools([]))  # fmt: skip
    monkeypatch.setattr(model, "load", lambda *_, **__: made)
    return made


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(["--checkpoint", "toy", "--image", *words])


def pictures(folder: pathlib.Path) -> list[str]:
    for value in (1, 2, 3):
        Image.fromarray(toy.grey(value)).save(folder / f"{value}.png")
    return [str(folder / f"{value}.png") for value in (1, 2, 3)]


def test_command_writes_a_line_for_each_picture(loaded: LoadedModel, tmp_path: pathlib.Path, capsys: Any) -> None:
    files = pictures(tmp_path)
    assert generate.run(parse(*files)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"{file}: {value} 7" for file, value in zip(files, (1, 2, 3), strict=True)]
    assert generate.run(parse(files[1], "--prompt", "4", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == {"image": files[1], "prompt": "4", "text": "2 7 4"}
    assert generate.run(parse(files[2])) == 0
    assert capsys.readouterr().out == "3 7\n"
    with pytest.raises(UserError, match="picture nowhere"):
        generate.run(parse("nowhere.png"))


def test_arguments_become_settings() -> None:
    assert generation_settings(generate.options(parse("x"))) == Settings(beams=3, max_length=30)
    sampled = generate.options(parse("x", "--nucleus", "0.9", "--temperature", "0.7", "--max-length", "20"))
    assert generation_settings(sampled) == Settings(sample=True, top_p=0.9, temperature=0.7, max_length=20)
    assert generation_settings(generate.options(parse("x", "--beam", "1"))) == Settings(max_length=30)
    for words, said in ((("--temperature", "2"), "of sampling"),
                        (("--top-k", "3", "--length-penalty", "2"), "of beam search")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            generate.options(parse("x", *words))
    with pytest.raises(UserError, match="max_lenght"):
        generation_settings({"max_lenght": 3})


def test_a_model_generates_one_text_a_picture(loaded: LoadedModel) -> None:
    assert loaded.generate([toy.grey(5), toy.grey(6), toy.grey(7)], ["1", "2", "3"]) == ["5 7 1", "6 7 2", "7 7 3"]
    with pytest.raises(UserError, match="2 prompts for 1 pictures"):
        loaded.generate([toy.grey(5)], ["1", "2"])


def test_a_checkpoint_that_does_not_write_says_what_it_can(loaded: LoadedModel) -> None:
    class Seer:
        embed_image = None

    mute = LoadedModel(**{**vars(loaded), "predictor": Predictor(Seer(), {})})
    with pytest.raises(UserError, match=r"Seer has no method 'generate'; it offers \['embed_image'\]"):
        mute.generate([toy.grey(1)])


def test_an_id_without_a_word_is_shown() -> None:
    known = toy.WORDS.batch(["1 2"], 4)[0][0, 1:3]
    assert written_text(toy.WORDS, known) == "1 2"
    assert written_text(toy.WORDS, np.array([known[0], 900, known[1]])) == "1 \ufffd 2"


def test_seeds_do_not_change_when_there_are_more() -> None:
    assert seeds(3, 5)[:2].tolist() == seeds(3, 2).tolist() and len(np.unique(seeds(3, 100))) == 100
