"""Conversations as training data: what is learned, where pictures stand, what is cut, and every mistake."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from mmjax import inputs, systems
from mmjax.core import sharding as shd
from mmjax.core.errors import BadExample, UserError
from mmjax.core.types import total
from mmjax.data import augment, tasks, text
from mmjax.data.chat import Conversation, chat_row
from mmjax.data.chat_prompts import Asker
from mmjax.data.chat_task import Chats, Sight
from mmjax.data.chat_templates import template
from mmjax.data.conversations import of_example, texts_of
from mmjax.data.example import check_batch
from mmjax.data.pipeline import Pipeline
from mmjax.data.rows import account
from mmjax.data.sources import open_source
from mmjax.data.tokenizers import SentencePiece

SCENES = "emoji_scenes:train?parts=image,captions,conversation&size=16&length=40"
SIGHT = Sight(size=8, states=4, newline=False, side=2)
TURNS = [("Look <image> and <image>, which is red?", "The first."), ("Sure?", "Yes.")]


@pytest.fixture(scope="module")
def words() -> SentencePiece:
    source = open_source(SCENES)
    return SentencePiece.train([line for i in range(40) for line in texts_of(source[i])], 400)


def make(source, words, sight=SIGHT, length=500, batch_size=4, **task) -> Pipeline:
    image, made = augment.from_config({"size": 8}), text.from_config({"forms": {"first": 1}})
    chat = tasks.from_config({"kind": "chat", **task}, sight)
    return Pipeline(
        source, tokenizer=words, length=length, image=image, text=made, task=chat, batch_size=batch_size, seed=1
    )


def answers(words, batch, row) -> str:
    learned = batch["mask_loss"][row]
    return words.decode(batch["ids"][row][learned])


def listed(tmp_path, rows):
    for name, colour in (("a.png", 10), ("b.png", 200)):
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(tmp_path / name)
    path = tmp_path / "talk.json"
    said = [{"id": f"r{n}", **row} for n, row in enumerate(rows)]
    path.write_text(json.dumps(said))
    return open_source(f"llava:{path}")


def row_of(turns, *images) -> dict:
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    return {"conversations": said, **({"image": list(images)} if images else {})}


def test_scenes_learn_the_answers_behind_their_picture(words) -> None:
    source = open_source(SCENES)
    batch = make(source, words)[0]
    check_batch(batch, ("image", "ids", "valid", "mask_loss", "slot"))
    assert batch["image"].shape == (4, 1, 8, 8, 3) and batch["ids"].shape == (4, 500)
    for row in range(4):
        talk, _ = of_example(source[int(batch["index"][row])])
        said = [answer for _, answer in talk.turns]
        assert answers(words, batch, row).split() == " ".join(said).split()
        ends = (batch["ids"][row] == words.eos_id) & batch["mask_loss"][row]
        assert ends.sum() == len(said)
        assert batch["slot"][row][batch["slot"][row] >= 0].tolist() == [0, 1, 2, 3]
        place = int(np.argmax(batch["slot"][row] >= 0))
        before, behind = batch["ids"][row][:place], batch["ids"][row][place + 4 : batch["valid"][row].sum()]
        assert words.decode(before).endswith("USER: ") and "ASSISTANT:" in words.decode(behind)
        assert before[0] == words.bos_id and not (behind == words.bos_id).any()


def test_captions_are_conversations_of_a_picture_and_a_text(words) -> None:
    source = open_source(SCENES)
    batch = make(source, words, of="caption", template="plain", length=100)[0]
    for row in range(4):
        caption = source[int(batch["index"][row])]["texts"][0]
        assert answers(words, batch, row).split() == caption.split()
        assert batch["slot"][row, :6].tolist() == [-1, 0, 1, 2, 3, -1]
    asked = make(source, words, of="caption", ask="What is it?")[0]
    assert "What is it?" in words.decode(asked["ids"][0][asked["valid"][0] & ~asked["mask_loss"][0]])


QUESTIONS = "emoji_scenes:train?parts=image,questions&size=16&length=40"


def test_questions_with_short_answers_are_the_turns_of_a_conversation(words) -> None:
    sources = {"a": open_source(QUESTIONS), "b": open_source(SCENES)}
    batch = make(sources, words, short="In a word.", batch_size=8)[0]
    kinds = set()
    for row in range(8):
        asked = int(batch["index"][row]) < 40
        kinds.add(asked)
        example = sources["a" if asked else "b"][int(batch["index"][row]) % 40]
        read = words.decode(batch["ids"][row][batch["valid"][row] & ~batch["mask_loss"][row]])
        if asked:
            assert answers(words, batch, row).split() == [word for q in example["questions"] for word in q[1].split()]
            assert f"{example['questions'][0][0]}\nIn a word." in read and read.count("In a word.") == 1
        else:
            assert "In a word." not in read
    assert kinds == {True, False}
    with pytest.raises(BadExample, match="no question with an answer"):
        of_example({"key": "a", "question": "What?", "answers": []})
    assert of_example({"key": "a", "question": "What?", "answers": ["b", "a", "a"]})[0].turns == [("What?", "a")]


@pytest.mark.parametrize("more", [{}, {"grids": [(16, 16), (8, 16)]}])
def test_prompts_end_where_the_answers_begin(words, more) -> None:
    task = Chats(images=2, sight=SIGHT._replace(newline=True), **more)
    ask = Asker(task, words, lambda picture: picture[:8, :8], 300)
    source = open_source(QUESTIONS)
    pictures = [source[n]["image"] for n in range(2)]
    batch = ask(["What is it?", "How many dogs are in the picture?"], pictures)
    check_batch({key: np.stack([value[n] for n in range(2)]) for key, value in batch.items()})
    for row, asked in enumerate(["What is it?", "How many dogs are in the picture?"]):
        talk = Conversation("a", [(f"<image>\n{asked}", None)])
        alone = ask.talk(talk, [pictures[row]])
        count = int(alone["valid"].sum())
        assert words.decode(alone["ids"][0][:count]).endswith(f"{asked} ASSISTANT:") and alone["valid"].all()
        for key in ("ids", "slot", "valid"):
            np.testing.assert_array_equal(batch[key][row][:count], alone[key][0])
        assert not batch["valid"][row][count:].any()
        np.testing.assert_array_equal(batch["image"][row], alone["image"][0])
        whole = chat_row(talk._replace(turns=[(f"<image>\n{asked}", "Yes.")]), template("vicuna_v1"), words)
        first = int(np.argmax(whole.mask_loss))
        np.testing.assert_array_equal(whole.ids[:first][whole.image[:first] < 0], alone["ids"][0][alone["slot"][0] < 0])
    texts = ask.talk(Conversation("a", [("Hi.", "Yes?"), ("Why?", None)]), [])
    assert sorted(texts) == ["ids", "valid"]
    two = ask.talk(Conversation("a", [("<image> or <image>?", None)]), pictures)
    assert two["image"].shape[1] == 2 * (5 if more else 1)


def test_prompts_with_answers_say_which_tokens_these_are(words) -> None:
    """Also where a template has learned tokens in the question (v0), and for a question without a picture."""
    picture = np.full((8, 8, 3), 9, np.uint8)
    for name in ("vicuna_v1", "v0"):
        ask = Asker(Chats(template=name, sight=SIGHT), words, lambda picture: picture, 300)
        batch = ask(["What is it?", "Why?"], [picture, picture], ["A dog.", "So."], [True, False])
        said = [words.decode(ids[named]) for ids, named in zip(batch["ids"], batch["mask_loss"], strict=True)]
        assert all(answer in text for text, answer in zip(said, ("A dog.", "So."), strict=True))
        assert "Human" not in said[0] and len(said[0]) < 40 and not (batch["mask_loss"] & ~batch["valid"]).any()
        assert (batch["slot"][0] >= 0).sum() == 4 and not (batch["slot"][1] >= 0).any()
        assert (batch["image"][0] == 9).all() and not batch["image"][1].any()


def test_prompts_that_cannot_be_made(words) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    task = Chats(sight=SIGHT)
    with pytest.raises(UserError, match=r"question 1: the prompt has [0-9]+ tokens, pictures included; valid: up to 9"):
        Asker(task, words, lambda picture: picture, 9)(["What?"], [picture])
    with pytest.raises(UserError, match="give --template, one of v0, v1,"):
        Asker(None, words, lambda picture: picture, 90)(["What?"], [picture])
    with pytest.raises(BadExample, match="2 places for pictures"):
        Asker(task, words, lambda picture: picture, 90).talk(Conversation("a", [("<image><image>", None)]), [picture])
    with pytest.raises(UserError, match="sees no pictures"):
        Asker(Chats(), words, lambda picture: picture, 90)(["What?"], [picture])


def test_packed_rows_hold_the_conversations_of_single_ones(words) -> None:
    sources, more = {"a": open_source(QUESTIONS), "b": open_source(SCENES)}, {"sight": SIGHT._replace(newline=True)}
    more["template"] = "mistral_instruct"
    single = make(sources, words, batch_size=6, length=400, **more)
    packed = make(sources, words, batch_size=3, length=800, pack=2, **more)
    assert (
        packed.samples_per_epoch == single.samples_per_epoch == 78 and packed.epoch(13) == 1 and len(packed.rows) == 3
    )
    one, two = single[4], packed[4]
    assert not one["valid"][:, -1].any()  # none is cut
    check_batch(two)
    assert two["image"].shape == (3, 2, 8, 8, 3) and two["index"].tolist() == one["index"][::2].tolist()
    for row in range(3):
        at = 0
        for place in range(2):
            alone = 2 * row + place
            count = int(one["valid"][alone].sum())
            part = slice(at, at + count)
            for key in ("ids", "mask_loss"):
                np.testing.assert_array_equal(two[key][row, part], one[key][alone, :count])
            slot = one["slot"][alone, :count]
            np.testing.assert_array_equal(
                two["slot"][row, part], np.where(slot == 4, 8, slot + 4 * place * (slot >= 0))
            )
            assert (two["sample"][row, part] == place).all()
            np.testing.assert_array_equal(two["image"][row, place], one["image"][alone, 0])
            at += count
        assert (
            two["valid"][row, :at].all() and not two["valid"][row, at:].any() and (two["sample"][row, at:] == 2).all()
        )
    task = tasks.from_config({"kind": "chat", "pack": 2, "template": more["template"]}, more["sight"])
    again = Pipeline(sources, tokenizer=words, length=800, image=augment.from_config({"size": 8}), batch_size=3, seed=1,
                     text=text.from_config({"forms": {"first": 1}}), rows=[1], task=task)  # fmt: skip
    for key, array in again[4].items():
        np.testing.assert_array_equal(array[0], two[key][1], err_msg=key)
    losses = []
    model = systems.build(
        {"name": "llava", "img": IMG, "llm": {**LLM, "init_std": 0.3}, "newline": True, "dtype": "float32"}
    )
    params = jax.jit(lambda b: shd.unbox(model.init(jax.random.key(0), b, train=False)))(one)
    for batch in (one, two):
        terms = jax.jit(lambda b: model.apply(params, b, train=True, method="losses"))(batch)
        losses.append(float(total(terms)))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert float(terms["filled"].mean) == pytest.approx(two["valid"].mean())


def test_what_packing_brings_is_said(words) -> None:
    short = make(open_source(SCENES), words, length=260, batch_size=4, pack=3)
    batch = short[0]
    assert batch["valid"].all() and set(batch["sample"].ravel()) <= {0, 1, 2}
    kept = [set(own[seen].tolist()) for own, seen in zip(batch["sample"], batch["mask_loss"], strict=True)]
    there = sum(map(len, kept))
    said = "3 conversations a row: 100% of 260 places hold tokens, 33% with one a row (67% of the places saved)"
    lost = f"of 4 rows 4 are full, so that what they end with may be cut, and {12 - there} of 12 conversations found"
    assert account(batch, 3) == f"{said}; {lost} no room for an answer (ledger.jsonl names them)"
    assert there < 12
    iterator = iter(short)
    next(iterator)
    cut = [row * 3 + place for row in range(4) for place in range(3) if place not in kept[row]]
    numbers = [int(short.batches.samples[place][0]) for place in cut]
    assert [(item.index, item.reason, item.step) for item in iterator.dropped] == [
        (number, "no room in its row", 1) for number in numbers
    ]
    source = open_source(SCENES)
    assert [item.key for item in iterator.dropped] == [source[number]["key"] for number in numbers]
    last = {cut[n] % 3 + 1: item.detail for n, item in enumerate(iterator.dropped)}
    assert last[3] == "number 3 of 3; a row has 260 tokens"
    iterator.close()
    with pytest.raises(UserError, match="pack = 0; valid: 1 conversation a row, or more"):
        Chats(pack=0)
    with pytest.raises(
        UserError, match=r"batch_size 20 is larger than one epoch \(40 examples, 3 a row\); valid: at most 13"
    ):
        make(open_source(SCENES), words, batch_size=20, pack=3)
    with pytest.raises(UserError, match="short last batch of 4, which several processes, or rows of several examples"):
        Pipeline(open_source(SCENES), tokenizer=words, length=60, image=augment.from_config({"size": 8}), batch_size=4,
                 text=text.from_config({}), epochs=1, drop_remainder=False,
                 task=tasks.from_config({"kind": "chat", "pack": 3}, SIGHT))  # fmt: skip


def test_several_pictures_beside_texts_alone(words, tmp_path) -> None:
    rows = [row_of(TURNS, "a.png", "b.png"), row_of([("Hi.", "Hello.")]), row_of([("What? <image>", "Red.")], "b.png")]
    pipeline = make(listed(tmp_path, rows), words, images=2, batch_size=3)
    batch = pipeline[0]
    check_batch(batch)
    place = {int(index): row for row, index in enumerate(batch["index"])}
    two, none, one = (place[n] for n in range(3))
    assert batch["image"][:, :, 0, 0, 0][[two, none, one]].tolist() == [[10, 200], [0, 0], [200, 0]]
    slots = [batch["slot"][row][batch["slot"][row] >= 0].tolist() for row in (two, none, one)]
    assert slots == [[0, 1, 2, 3, 4, 5, 6, 7], [], [0, 1, 2, 3]]
    few = make(listed(tmp_path, rows), words, batch_size=3)
    assert 0 not in few[0]["index"]
    iterator = iter(few)
    next(iterator)
    (dropped,) = {(item.reason, item.detail, item.key) for item in iterator.dropped}
    assert dropped == ("wrong pictures", "2 pictures; the task chat has images = 1", "r0")
    iterator.close()


def test_a_newline_and_tiles_have_the_numbers_that_the_system_counts(words) -> None:
    source = open_source(SCENES)
    ended = make(source, words, sight=SIGHT._replace(newline=True))[0]
    assert ended["slot"][0][ended["slot"][0] >= 0].tolist() == [0, 1, 2, 3, 4]
    tiled = make(source, words, sight=SIGHT._replace(newline=True), grids=[(16, 16), (8, 16)], images=2)[0]
    assert tiled["image"].shape == (4, 10, 8, 8, 3)
    # whole; then the tiles' rows, each with the newline, which stands behind the states of 2 · 5 views of 4
    assert tiled["slot"][0][tiled["slot"][0] >= 0].tolist() == [
        0, 1, 2, 3, 4, 5, 8, 9, 40, 6, 7, 10, 11, 40, 12, 13, 16, 17, 40, 14, 15, 18, 19, 40
    ]  # fmt: skip
    flat = make(source, words, grids=[(16, 16)])[0]
    assert flat["slot"][0][flat["slot"][0] >= 0].tolist() == list(range(20))


def test_long_rows_are_cut_and_those_with_nothing_left_are_dropped(words, tmp_path) -> None:
    source = open_source(SCENES)
    short = make(source, words, length=260)[0]
    whole = make(source, words)
    assert short["valid"].all(axis=1).any() and short["ids"].shape == (4, 260)
    at = {int(n): row for row, n in enumerate(whole[0]["index"])}
    both = [(row, at[int(n)]) for row, n in enumerate(short["index"]) if int(n) in at]
    assert both and all((short["ids"][a] == whole[0]["ids"][b, :260]).all() for a, b in both)
    rows = [row_of([("What? " * 60, "Red.")]), row_of([("What?", "Red.")])]
    pipeline = make(listed(tmp_path, rows), words, length=260, batch_size=2)
    assert pipeline[0]["index"].tolist() == [1, 1]
    iterator = iter(pipeline)
    next(iterator)
    assert {(item.reason, item.key) for item in iterator.dropped} == {("nothing to learn", "r0")}
    iterator.close()
    with pytest.raises(UserError, match=r"text_length = 5 has no room for a caption: .* 5 tokens"):
        make(source, words, of="caption", template="plain", length=5)[0]


def test_texts_alone_give_no_images(words) -> None:
    source = open_source("emoji_scenes:train?parts=conversation&length=40")
    batch = make(source, words, sight=None)[0]
    assert sorted(batch) == ["ids", "index", "mask_loss", "valid"]
    check_batch(batch)


def test_what_a_pipeline_continues_is_the_same_task(words) -> None:
    source = open_source(SCENES)
    state = iter(make(source, words)).get_state()
    with pytest.raises(UserError, match="template was 'vicuna_v1', is 'plain'"):
        iter(make(source, words, template="plain")).set_state(state)


def test_every_mistake_is_said(words, tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no conversation; it has \['image', 'key', 'texts'\].*parts=image,conv"):
        make(open_source("emoji_scenes:train?parts=image,captions&length=20"), words)[0]
    with pytest.raises(BadExample, match=r"0 places for pictures .<image>. and 1 pictures"):
        picture = np.zeros((8, 8, 3), np.uint8)
        Chats(sight=SIGHT).check({"key": "a", "turns": [("Hi.", "Yes.")], "pictures": [picture]}, None)
    with pytest.raises(UserError, match="images = 1; valid: 0, for the system sees no pictures"):
        Chats(images=1)
    with pytest.raises(UserError, match="valid: grids of whole tiles of 8 pixels"):
        Chats(grids=[(12, 8)], sight=SIGHT)
    with pytest.raises(UserError, match="no square"):
        Chats(grids=[(8, 8)], sight=SIGHT._replace(states=5, side=0))
    with pytest.raises(UserError, match="captions are of pictures"):
        Chats(of="caption")
    with pytest.raises(UserError, match="vicuna_v2"):
        Chats(template="vicuna_v2")
    with pytest.raises(UserError, match="of of the task chat"):
        Chats(of="captions")


IMG = {"image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2}
LLM = {"vocab": 400, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16}


def config(task, name="llava", **data) -> dict:
    system = {"name": name, "llm": LLM, **({"img": IMG} if name == "llava" else {})}
    return {"seed": 0, "system": system, "data": {"train": SCENES, "batch_size": 2, "task": task, **data}}


def test_the_system_says_what_a_picture_is_and_how_long_rows_may_be(words) -> None:
    chat = {"kind": "chat"}
    assert inputs.text_length(config(chat)) == 2048 and inputs.text_length(config(chat, text_length=5000)) == 5000
    assert inputs.sight(config(chat)) == Sight(8, 4, False, 2) and inputs.sight(config(chat, "language")) is None
    seen = config(chat)
    seen["system"] |= {"newline": True, "keep_cls": True}
    assert inputs.sight(seen) == Sight(8, 5, True, 0)
    batch = inputs.make_pipeline(config(chat, text_length=300), {}, words)[0]
    assert batch["image"].shape == (2, 1, 8, 8, 3) and batch["ids"].shape == (2, 300)
    source = {"train": "emoji_scenes:train?parts=conversation&length=40", "text_length": 300}
    assert "image" not in inputs.make_pipeline(config(chat, "language", **source), {}, words)[0]
    inputs.check_vocabulary(config(chat), words)


def test_the_shapes_of_a_stage_are_those_of_its_batches(words) -> None:
    chat, length = {"kind": "chat"}, {"text_length": 300}
    texts = {"train": "emoji_scenes:train?parts=conversation&length=40", "task": {**chat, "images": 0}}
    for made, changes in [
        (config(chat, **length), {}),
        (config(chat, **length), {"text_length": 90, "task": {**chat, "of": "caption", "template": "plain"}}),
        (config(chat, **length), {"task": {**chat, "images": 2, "grids": [(16, 16), (8, 16)]}}),
        (config(chat, **length), texts),
        (config(chat, **length), {"task": {**chat, "pack": 2}}),
        (config(chat, "language", **length), texts),
    ]:
        batch = inputs.make_pipeline(made, changes, words)[0]
        shapes = inputs.stage_batch(made, changes, 2)
        wanted = {key: (array.shape, array.dtype) for key, array in batch.items() if key != "index"}
        assert {key: (leaf.shape, leaf.dtype) for key, leaf in shapes.items()} == wanted


def test_mistakes_between_task_and_system(words) -> None:
    with pytest.raises(UserError, match="text_length = 1; valid: 2 or more"):
        inputs.text_length(config({"kind": "chat"}, text_length=1))
    with pytest.raises(UserError, match=r"the system llava reads conversations: give \{'kind': 'chat'"):
        inputs.make_pipeline(config({"kind": "caption"}), {}, words)
    clip = config({"kind": "chat"})
    clip["system"] = {"name": "clip", "embed_dim": 8, "img": IMG, "txt": {**IMG, "vocab": 400, "length": 8}}
    with pytest.raises(UserError, match=r"the system clip reads no conversations; .*language, llava"):
        inputs.make_pipeline(clip, {}, words)
    with pytest.raises(UserError, match=r"text_buckets = .*not cut to buckets"):
        inputs.make_pipeline(config({"kind": "chat"}, text_length=300, text_buckets=(32,)), {}, words)
    small = config({"kind": "chat"})
    small["system"]["llm"] = {**LLM, "vocab": 40}
    with pytest.raises(UserError, match=r"config\.system\.llm\.vocab = 40, but the tokenizer has 400 ids"):
        inputs.check_vocabulary(small, words)
