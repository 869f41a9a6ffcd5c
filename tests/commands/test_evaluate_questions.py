"""`mmjax eval` on POPE's, ScienceQA's and judges' files, with a LLaVA that has learned nothing."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import cli, model, systems
from mmjax.core import sharding as shd
from mmjax.data.tokenizers import SentencePiece
from mmjax.evals.build import build_evaluator
from mmjax.train import checkpoint

SYSTEM = {
    "name": "llava",
    "img": {"image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2, "taps": [-1]},
    "llm": {"vocab": 300, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "init_std": 0.5},
}
TASK = {"kind": "chat", "template": "mistral_instruct"}
CHOICES = ["a red circle", "blue", "a very long answer to it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("asked")
    words = SentencePiece.train(["a red circle", "what is it ?", "[INST] hello [/INST] A. B. C."], 286)
    system = systems.build({**SYSTEM, "dtype": "float32"})
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), system.example(1))
    variables = shd.unbox(jax.jit(system.init)(jax.random.key(0), batch))
    config = {"system": SYSTEM, "data": {"task": TASK, "text_length": 400, "batch_size": 1}, "seed": 0}
    checkpoint.save_model(path / "model", SYSTEM, variables, tokenizer=words, config=config)
    for number in (1, 2):
        at = path / "images" / "test" / str(number) / "image.png"
        at.parent.mkdir(parents=True)
        Image.fromarray(np.full((9, 12, 3), 90 * number, np.uint8)).save(at)
    problem = {"question": "what is it ?", "choices": CHOICES, "answer": 0, "hint": "", "image": "image.png"}
    problems = {"1": problem, "2": {**problem, "choices": CHOICES[:2]}, "3": {**problem, "image": None}}
    (path / "problems.json").write_text(json.dumps(problems))
    (path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3"]}))
    asked = [{"question_id": n, "image": f"images/test/{n}/image.png", "text": "what is it ?", "label": "no"}
             for n in (1, 2)]  # fmt: skip
    for name in ("coco_pope_random.json", "questions.jsonl"):
        (path / name).write_text("\n".join(map(json.dumps, asked)))
    return path


def evaluate(folder: pathlib.Path, *more: str) -> dict[str, float]:
    out = folder / "metrics.json"
    assert cli.main(["eval", "--checkpoint", str(folder / "model"), "--batch-size", "8", "--json", str(out),
                     "--name", "e", *more]) == 0  # fmt: skip
    return json.loads(out.read_text())


def test_published_files_are_evaluated(folder: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    few = ("--option", 'settings={"max_new": 2}')
    found = evaluate(folder, "--data", f"pope:{folder}/coco_pope_random.json", "--metric", "pope", *few)
    assert found["e/recall"] == 0 and found["e/yes_ratio"] == 1 - found["e/accuracy"]  # all of it is "no"
    assert "always yes: e/accuracy" in capsys.readouterr().out
    found = evaluate(folder, "--data", f"scienceqa:{folder}/problems.json", "--metric", "choice", *few)
    assert {"e/accuracy", "e/accuracy/picture", "e/accuracy/text", "e/parsed"} <= set(found)
    answers = folder / "answers.jsonl"
    evaluate(folder, "--data", f"questions:{folder}/questions.jsonl", "--metric", "freeform", *few,
             "--option", f"file={answers}")  # fmt: skip
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    wanted = model.load(folder / "model").generate([folder / "images/test/2/image.png"], "what is it ?", max_new=2)
    assert [row["question_id"] for row in rows] == [1, 2] and rows[1]["text"] == wanted[0]
    assert set(rows[0]) == {"question_id", "prompt", "text"}


@pytest.mark.parametrize("of", ["letter", "text"])
def test_the_likeliest_choice_is_that_of_the_logits(folder: pathlib.Path, of: str) -> None:
    loaded = model.load(folder / "model", batch_size=8)
    spec = {"kind": "choice", "data": f"scienceqa:{folder}/problems.json", "mode": "likelihood", "of": of}
    evaluator = build_evaluator("e", spec, loaded.tools)
    found = evaluator.write(loaded.predictor)  # type: ignore[attr-defined]
    problems, short = evaluator.problems, evaluator.short  # type: ignore[attr-defined]
    rows = [(n, number) for n, problem in enumerate(problems) for number in range(len(problem.choices))]
    said = ["ABC"[number] if of == "letter" else CHOICES[number] for _, number in rows]
    pictures = [np.full((9, 12, 3), min(90 * (n + 1), 255), np.uint8) for n, _ in rows]
    assert loaded.tools.ask is not None
    batch = dict(loaded.tools.ask([f"{problems[n].question}\n{short}" for n, _ in rows], pictures, said,
                                  [n < 2 for n, _ in rows]))  # fmt: skip
    batch["image"] = np.stack([batch["image"][place] for place in range(len(rows))])
    logits = jax.jit(functools.partial(loaded.module.apply, method="logits"))(loaded.variables, batch)
    each = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))
    scores: dict[int, list[float]] = {}
    for place, (n, _) in enumerate(rows):
        at = np.flatnonzero(batch["mask_loss"][place])
        whole = sum(each[place, t - 1, batch["ids"][place, t]] for t in at)
        scores.setdefault(n, []).append(whole / len(at) if of == "text" else whole)
    assert found == ["ABC"[int(np.argmax(scores[n]))] for n in range(3)]
