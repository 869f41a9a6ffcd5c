"""Rows of published conversation files as turns: LLaVA's and ShareGPT's JSON, and lists of messages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import BadExample, UserError
from mmjax.data.chat import IMAGE, Conversation

USER = ("human", "user")
ASSISTANT = ("gpt", "assistant", "chatgpt", "model", "bing", "bard")
SYSTEM = ("system",)
_SHOWN = 60


def parse(row: Mapping[str, Any], key: str) -> tuple[Conversation, list[Any]]:
    """The conversation of a row, and its pictures as the row names them (paths, `data:` URIs).

    Args:
      row: LLaVA's and ShareGPT's form, `{"conversations": [{"from": "human", "value": …}, …]}` with `image` (a path or
        a list) where there are pictures; or `{"messages": [{"role": "user", "content": …}, …]}`, whose content is a
        text or a list of `{"type": "text", "text": …}` and `{"type": "image", "image": …}`.
      key: its name, where it has no `id` of its own.

    Raises:
      BadExample: it has another form, speakers do not take turns, an answer is empty, or it names more or fewer
        pictures than it has.

    Example:
      >>> said = [{"from": "human", "value": "What is it? <image>"}, {"from": "gpt", "value": "A cat."}]
      >>> parse({"id": "7", "image": "cat.jpg", "conversations": said}, "row 1")
      (Conversation(key='7', turns=[('What is it? <image>', 'A cat.')], system=None), ['cat.jpg'])
    """
    name = row.get("id", row.get("key"))
    key = str(name) if isinstance(name, str | int) and not isinstance(name, bool) else key
    said = row.get("conversations", row.get("conversation", row.get("messages")))
    if not isinstance(said, list):
        raise BadExample("malformed record", f"no list of conversations or messages; it has {_short(sorted(row))}", key)
    pictures = _named(row, key)
    spoken = [_message(message, pictures, key) for message in said]
    system = row.get("system")
    if not isinstance(system, str | None):
        raise BadExample("malformed record", f"the system text is {_short(system)}", key)
    if spoken and spoken[0][0] == "system":
        system = spoken[0][1]
        spoken = spoken[1:]
    conversation = Conversation(key, _turns(spoken, key), system)
    if conversation.pictures != len(pictures):
        detail = f"{conversation.pictures} places for pictures ({IMAGE}) and {len(pictures)} pictures"
        raise BadExample("wrong pictures", detail, key)
    return conversation, pictures


def of_example(example: Mapping[str, Any], short: str = "") -> tuple[Conversation, list[np.ndarray]]:
    """The conversation of a source's example, and its pictures.

    It has `turns` with `pictures` (`llava:`); or a `conversation` of (role, text) (`emoji_scenes`); or questions with
    short answers, which become the turns of one conversation, as in LLaVA-1.5 (of several annotators' answers the
    commonest). Before the first question of the latter two stands their `image`, if they have one.

    Args:
      example: of a source.
      short: what is said behind the first question where answers are short, on a line of its own.

    Raises:
      UserError: it has none of them.
      BadExample: speakers do not take turns, or an answer is empty.
    """
    key = str(example.get("key", "?"))
    if "turns" in example:
        return Conversation(key, example["turns"], example.get("system")), list(example.get("pictures") or ())
    if "conversation" in example:
        turns = _turns(example["conversation"], key)
    else:
        turns = [(question, Counter(answers).most_common(1)[0][0]) for question, answers in questions_of(example)]
        turns[:1] = [(f"{question}\n{short}" if short else question, answer) for question, answer in turns[:1]]
    if not turns and {"question", "questions"} & set(example):
        raise BadExample("empty answer", "no question with an answer", key)
    if not turns:
        raise UserError(
            f"example {key!r} has no conversation; it has {sorted(example)}. Sources of conversations are llava:FILE "
            "and emoji_scenes with parts=image,conversation or parts=image,questions; the task chat with of='caption' "
            "takes pictures with texts"
        )
    if "image" not in example:
        return Conversation(key, turns), []
    (question, answer), *rest = turns
    return Conversation(key, [(f"{IMAGE}\n{question}", answer), *rest]), [example["image"]]


def questions_of(example: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(question, answers of the annotators) of an example, those without an answer left out."""
    if "question" in example:
        given = example.get("answers", example.get("answer")) or []
        found = [(example["question"], [given] if isinstance(given, str) else list(given))]
    else:
        rows = example.get("questions") or ()
        found = [(row[0], [row[1]] if isinstance(row[1], str) else list(row[1])) for row in rows]
    return [(question, answers) for question, answers in found if question and answers]


def texts_of(example: Mapping[str, Any]) -> list[str]:
    """All that an example says, once: its texts, the turns of its conversation, its questions with their answers."""
    texts = list(example.get("texts", ()))
    said = [text for turn in example.get("turns", ()) for text in turn]
    said += [text for _, text in example.get("conversation", ())]
    for question, answers in questions_of(example):
        if not all(f"{question} {answer}" in texts for answer in answers):  # as those of `easy_vqa` are
            said += [question, *answers]
    return [*texts, *(text.replace(IMAGE, "") for text in said)]


def _named(row: Mapping[str, Any], key: str) -> list[Any]:
    """The pictures that stand beside the messages."""
    given = row.get("image", row.get("images"))
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if wrong := [picture for picture in listed if not isinstance(picture, str) or not picture]:
        raise BadExample("malformed record", f"a picture is no path: {_short(wrong[0])}", key)
    return list(listed)


def _message(message: Any, pictures: list[Any], key: str) -> tuple[str, str]:
    """(role, text) of a message; pictures in it are added to the list."""
    if not isinstance(message, Mapping):
        raise BadExample("malformed record", f"a message is no object: {_short(message)}", key)
    said = message.get("from", message.get("role"))
    role = next((name for name, spellings in _ROLES.items() if said in spellings), None)
    if role is None:
        known = ", ".join(name for spellings in _ROLES.values() for name in spellings)
        raise BadExample("wrong roles", f"a speaker {_short(said)}; known: {known}", key)
    content = message.get("value", message.get("content"))
    if isinstance(content, str):
        return role, content
    if not isinstance(content, list):
        raise BadExample("malformed record", f"the text of a message is {_short(content)}", key)
    return role, "".join(_part(part, pictures, key) for part in content)


_ROLES = {"user": USER, "assistant": ASSISTANT, "system": SYSTEM}


def _part(part: Any, pictures: list[Any], key: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "image":
        picture = part.get("image", part.get("path"))
        if isinstance(picture, str) and picture:
            pictures.append(picture)
        elif picture is not None:
            raise BadExample("malformed record", f"a picture is no path: {_short(picture)}", key)
        return IMAGE + "\n"
    raise BadExample("malformed record", f"a part of a message is neither text nor image: {_short(part)}", key)


def _turns(spoken: Sequence[tuple[str, str]], key: str) -> list[tuple[str, str]]:
    """Pairs of question and answer."""
    roles = [role for role, _ in spoken]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        detail = "no message" if not roles else f"user and assistant do not take turns: {', '.join(roles[:6])}"
        raise BadExample("wrong roles", detail, key)
    turns = [(spoken[i][1], spoken[i + 1][1]) for i in range(0, len(spoken), 2)]
    for number, (_, answer) in enumerate(turns):
        if not answer.strip():
            raise BadExample("empty answer", f"turn {number + 1}", key)
        if IMAGE in answer:
            raise BadExample("wrong pictures", f"the answer of turn {number + 1} names a picture", key)
    return turns


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
