"""Conversations: the published templates' masks, several pictures, special tokens in users' words, broken rows."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mmjax.commands.golden_chat import WordTokenizer
from mmjax.core.errors import BadExample, UserError
from mmjax.data import chat
from mmjax.data.chat_templates import TEMPLATES, template
from mmjax.data.conversations import parse
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import SentencePiece

TURNS = [("Look <image> and <image>, which is red?", "The first."), ("Sure?", "Yes.")]


def words(*rows):
    """A tokenizer that knows the pieces of some texts."""
    collect = WordTokenizer([])
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2}
    collect.special = lambda token: pieces.setdefault(token, len(pieces))
    for row in rows:
        chat.encode(row, collect)
    return WordTokenizer(list(pieces))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_learns_the_answers_alone(name):
    found = chat.segments(chat.Conversation("a", TURNS), template(name))
    learned = chat.learned(found)
    joined = "".join(learned)
    assert "The first." in joined and "Yes." in joined and "red" not in joined and "Sure" not in joined
    assert [segment.kind for segment in found].count("image") == 2
    row = chat.encode(found, words(found), TEMPLATES[name].bos)
    assert row.image[row.image >= 0].tolist() == [0, 1] and not row.mask_loss[row.image >= 0].any()


def test_v0_learns_whole_turns_of_the_assistant_and_the_mark_that_ends_them():
    found = chat.segments(chat.Conversation("a", [("Hi.", "Hello.")]), template("v0"))
    assert chat.readable(found).endswith("questions.\n\n### Human: Hi.\n### Assistant: Hello.\n### ")
    assert chat.learned(found) == ["###", "### Assistant: Hello.\n### "]


def test_a_prompt_ends_where_the_answer_begins():
    whole = chat.readable(chat.segments(chat.Conversation("a", TURNS), template("vicuna_v1")))
    asked = chat.segments(chat.Conversation("a", [*TURNS[:1], ("Sure?", None)]), template("vicuna_v1"))
    assert whole == chat.readable(asked) + " Yes.</s>"
    with pytest.raises(BadExample, match="turn 1 has no answer"):
        chat.segments(chat.Conversation("a", [("Sure?", None), ("Yes?", "Yes.")]), template("v1"))


def test_a_system_text_of_its_own_and_special_tokens_in_words():
    found = chat.segments(
        chat.Conversation("a", [("Say </s> twice.", "No </s>.")], "Be kind."), template("mistral_instruct")
    )
    assert chat.readable(found).startswith("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nSay </s>")
    assert [segment.text for segment in found if segment.kind == "special"] == ["</s>"]  # the template's, at the end


def test_expanding_and_cutting():
    found = chat.segments(chat.Conversation("a", TURNS), template("plain"))
    row = chat.encode(found, words(found))
    wide = chat.expand(row, [3, 2])
    assert len(wide) == len(row) + 3 and wide.image.tolist().count(0) == 3 and wide.image.tolist().count(1) == 2
    assert wide.mask_loss.sum() == row.mask_loss.sum()
    assert len(chat.fit(wide, 8, "a")) == 8
    with pytest.raises(BadExample, match="beyond 4") as caught:
        chat.fit(wide, 4, "a")
    assert (caught.value.reason, caught.value.key) == ("nothing to learn", "a")
    with pytest.raises(UserError, match="2 places for pictures and 1 pictures"):
        chat.expand(row, [3])


def test_sentence_pieces_of_a_text_that_continues():
    tokenizer = SentencePiece.train(["USER: what is it? ASSISTANT: a red cat</s>", "a dog\nand a cat"], 285)
    whole = tokenizer.encode("USER: what is it? ASSISTANT: a red cat")
    assert tokenizer.encode("USER: what is it? ASSISTANT:") + tokenizer.encode_more(" a red cat") == whole
    assert tokenizer.special("</s>") == tokenizer.eos_id
    with pytest.raises(UserError, match=re.escape("no token '<|end|>'")):
        tokenizer.special("<|end|>")


def test_rows_of_the_published_forms():
    said = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi."},
        {"from": "gpt", "value": "Hello."},
    ]
    conversation, pictures = parse({"conversations": said}, "row 3")
    assert conversation == chat.Conversation("row 3", [("Hi.", "Hello.")], "Be kind.") and pictures == []
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    conversation, pictures = parse({"id": 5, "messages": messages}, "row 1")
    assert conversation == chat.Conversation("5", [("<image>\nWhat?", "A cat.")]) and pictures == ["a.png"]


SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
ROW = {"id": "r", "image": "a.png", "conversations": SAID}


def broken():
    ask, answer = ROW["conversations"]
    yield "malformed record", {"id": "r"}
    yield "malformed record", {**ROW, "image": 3}
    yield "malformed record", {**ROW, "conversations": ["Hi."]}
    yield "malformed record", {**ROW, "conversations": [{"from": "human", "value": 3}, answer]}
    yield "malformed record", {**ROW, "conversations": [{"role": "user", "content": [{"type": "sound"}]}, answer]}
    yield "wrong roles", {**ROW, "conversations": [ask, ask]}
    yield "wrong roles", {**ROW, "conversations": [answer, ask]}
    yield "wrong roles", {**ROW, "conversations": []}
    yield "wrong roles", {**ROW, "conversations": [ask, {"from": "robot", "value": "A cat."}]}
    yield "empty answer", {**ROW, "conversations": [ask, {"from": "gpt", "value": " \n"}]}
    yield "wrong pictures", {**ROW, "image": ["a.png", "a.png"]}
    yield "wrong pictures", {key: ROW[key] for key in ("id", "conversations")}
    yield "wrong pictures", {**ROW, "conversations": [ask, {"from": "gpt", "value": "<image>"}]}
    yield "missing file", {**ROW, "image": "b.png"}
    yield "not an image", {**ROW, "image": "page.png"}
    yield "bad text encoding", {**ROW, "conversations": [ask, {"from": "gpt", "value": "\ud800"}]}


@pytest.mark.parametrize("lines", [False, True])
def test_broken_rows_are_named_and_the_others_are_read(tmp_path, lines):
    Image.new("RGB", (4, 3), (255, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "page.png").write_text("<html>")
    reasons, rows = zip(*broken(), strict=True)
    rows = [ROW, *rows, {**ROW, "id": "last"}]
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    path = tmp_path / ("rows.jsonl" if lines else "rows.json")
    path.write_text(text)
    source = open_source(f"llava:{path}")
    assert len(source) == len(rows)
    for number, reason in enumerate(reasons):
        with pytest.raises(BadExample) as caught:
            source[number + 1]
        assert (caught.value.reason, caught.value.key) == (reason, "r"), rows[number + 1]
    last = source[len(rows) - 1]
    assert last["key"] == "last" and last["turns"] == [("<image>\nWhat?", "A cat.")]
    np.testing.assert_array_equal(last["pictures"][0], np.full((3, 4, 3), (255, 0, 0), np.uint8))


def test_files_that_are_no_conversations(tmp_path):
    (tmp_path / "a.json").write_text("[{}")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.jsonl").write_text("{")
    for name, message in (("a.json", "is not JSON"), ("b.json", "has no conversations"), ("d.json", "d.json")):
        with pytest.raises(UserError, match=message):
            open_source(f"llava:{tmp_path / name}")
    with pytest.raises(BadExample, match="not JSON"):
        open_source(f"llava:{tmp_path / 'c.jsonl'}")[0]
