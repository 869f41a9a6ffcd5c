"""Data sources by one-line specs: NAME[:ARG][?key=value&key=value], as in `emoji:test?style=fluent&lang=de`."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import Example

# NAME -> "module:function" with the signature (arg: str | None, *, option: type = default, …) -> Source. The module is
# imported when the source is opened.
SOURCES = {
    "emoji": "mmjax.data.emoji:open",
    "emoji_scenes": "mmjax.data.scenes:open",
    "jsonl": "mmjax.data.files.jsonl:open",
    "csv": "mmjax.data.files.csv:open",
    "text": "mmjax.data.files.text:open",
    "parquet": "mmjax.data.files.parquet:open",
    "folder": "mmjax.data.files.folder:open",
    "webdataset": "mmjax.data.files.webdataset:open",
    "arrayrecord": "mmjax.data.files.arrayrecord:open",
    "tfds": "mmjax.data.files.tfds:open",
    "coco": "mmjax.data.files.coco:open",
    "easy_vqa": "mmjax.data.files.easy_vqa:open",
    "llava": "mmjax.data.files.chat:open",
    "vqa": "mmjax.data.files.task_files:open_vqa",
    "nlvr2": "mmjax.data.files.task_files:open_nlvr2",
    "snli_ve": "mmjax.data.files.task_files:open_snli_ve",
    "karpathy": "mmjax.data.files.task_files:open_karpathy",
    "pope": "mmjax.data.files.question_files:open_pope",
    "textvqa": "mmjax.data.files.question_files:open_textvqa",
    "scienceqa": "mmjax.data.files.question_files:open_scienceqa",
    "mmbench": "mmjax.data.files.mmbench:open",
    "questions": "mmjax.data.files.question_files:open_questions",
}


@runtime_checkable
class Source(Protocol):
    """Examples by position, the same at every call and in every process."""

    name: str  # the spec, for logs and metric names

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Spec(NamedTuple):
    """A parsed spec."""

    name: str
    arg: str | None
    options: dict[str, str]


def parse_spec(spec: str) -> Spec:
    """Splits NAME[:ARG][?key=value&…]; ARG runs from the first colon to the first question mark.

    Raises:
      UserError: the spec has no name, an option without `=`, or an option twice.

    Example:
      >>> parse_spec("emoji:test?style=fluent")
      Spec(name='emoji', arg='test', options={'style': 'fluent'})
    """
    head, mark, tail = spec.strip().partition("?")
    name, colon, arg = head.partition(":")
    form = "a data source is NAME[:ARG][?key=value&key=value]"
    if not name:
        raise UserError(f"source {spec!r} has no name: {form}; names: {', '.join(SOURCES)}")
    if colon and not arg:
        raise UserError(f"source {spec!r} has a colon and nothing after it: {form}")
    options: dict[str, str] = {}
    for part in tail.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise UserError(f"source {spec!r}: option {part!r} is not of the form key=value: {form}")
        if key in options:
            raise UserError(f"source {spec!r} gives option {key!r} twice")
        options[key] = value
    return Spec(name, arg or None, options)


def open_source(spec: str) -> Source:
    """Opens the source that a spec names.

    Raises:
      UserError: an unknown name, argument or option, or a value of the wrong type; the message lists the valid ones.

    Example:
      >>> len(open_source("emoji:test"))
      274
    """
    parsed = parse_spec(spec)
    opener = _import(SOURCES[choose("data source", parsed.name, SOURCES)])
    return opener(parsed.arg, **_convert(opener, parsed))


def _import(target: str) -> Callable[..., Source]:
    """The function that "module:function" names."""
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)


def _convert(opener: Callable, spec: Spec) -> dict[str, Any]:
    """The options as the opener's keyword-only parameters annotate them."""
    parameters = inspect.signature(opener).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(spec.options)  # this opener checks names and types by itself
    hints = typing.get_type_hints(opener)
    known = {name: hints.get(name, str) for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    return {
        key: _parse(value, known[choose(f"option of the source {spec.name}", key, known)], f"{spec.name}?{key}")
        for key, value in spec.options.items()
    }


def _parse(text: str, hint: Any, where: str) -> Any:
    """A value of type str, int, float or bool (`X | None` counts as X) from its text."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(member for member in typing.get_args(hint) if member is not type(None))
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return hint(text) if hint in (int, float) else text
    except (KeyError, ValueError):
        raise UserError(f"{where}={text}: expected {hint.__name__}") from None
