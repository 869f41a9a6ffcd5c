"""Configs: ml_collections files, resolved, checked against a table of known keys, stored as JSON."""

import difflib
import importlib.util
import json
import pathlib
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmjax.core.errors import UserError

_EXECUTES = threading.Lock()  # a file is executed in one entry of sys.modules


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads `FILE.py[:ARGUMENT]` through ml_collections and applies `--config.a.b=value` arguments.

    Raises:
      UserError: no such file, or an error in it; an override of a field that does not exist (with the nearest one) or
        of another type.
    """
    file = pathlib.Path(str(path).partition(":")[0])
    if not file.is_file():
        near = sorted(str(p) for p in file.parent.glob("[!_]*.py"))
        raise UserError(f"config {file} does not exist; " + (f"there are {near}" if near else "give a Python file"))
    values, argv = flags.FlagValues(), ["mmjax", f"--config={path}"]
    with _EXECUTES:
        sys.modules.pop("config_config", None)  # ml_collections runs a file in what the one before has left
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        try:
            values(argv)
            config = values.config
            items = dict(config)
        except Exception as error:
            raise UserError(f"config {path}: {_cause(error, file)}") from error
    for override in overrides:
        check_override(override, items)
    values, argv = flags.FlagValues(), ["mmjax", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(str(error).removeprefix("flag ")) from error
    return values.config


def _cause(error: BaseException, file: pathlib.Path) -> str:
    """What went wrong in a config file, and in which line: ml_collections wraps it with the traceback as its text."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).name == file.name]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"


def check_override(override: str, config: Mapping[str, Any]) -> None:
    """Raises UserError for a `--config.a.b=value` whose field the config lacks; the message lists what there is."""
    path, equals, _ = override.removeprefix("--").partition("=")
    if not equals:
        raise UserError(f"{override} needs a value: {override}=…")
    where, node = "config", config
    for name in path.split(".")[1:]:
        field, index, _ = name.partition("[")
        if not isinstance(node, ConfigDict | Mapping):
            raise UserError(f"{where} is {node!r}: it has no field {field!r} to set")
        if field not in node:
            near = difflib.get_close_matches(field, list(node), 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            fields = ", ".join(sorted(node)) or "no field"
            raise UserError(f"{where}.{field} does not exist{hint} ({where} has: {fields})")
        if index:  # an item of a list: ml_collections reads the rest
            return
        where, node = f"{where}.{field}", node[field]


def sibling(file: str, name: str) -> ModuleType:
    """The module `name`.py beside a config: configs are loaded from paths, so `import` does not find their neighbours.

    Args:
      file: the config's `__file__`.
      name: of the module, without `.py`; with a leading underscore where it is no config itself.

    Raises:
      UserError: there is no such file.
    """
    path = pathlib.Path(file).resolve().with_name(f"{name}.py")
    if not path.is_file():
        raise UserError(f"{file} needs {path}, which does not exist")
    spec = importlib.util.spec_from_file_location(f"mmjax_configs.{path.parent.name}.{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(config: Any) -> Any:
    """The config as JSON-able dictionaries, lists and scalars; keys keep the order in which they were written."""
    if isinstance(config, ConfigDict):  # its own items() are sorted, but stages run as written
        return {name: plain(config[name]) for name in json.loads(config.to_json_best_effort())}
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise UserError(f"config value {config!r} of type {type(config).__name__} cannot be stored")


TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "whole": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "text": (str, "text"),
    "weights": ((str, Mapping, list, tuple), "a path, a mapping with one, or a list of these"),
    "mapping": (Mapping, "a mapping"),
    "list": ((list, tuple), "a list"),
    "flag": (bool, "true or false"),
}


def check_type(where: str, value: Any, kind: str) -> None:
    """Raises UserError unless a value is of a kind of TYPES; None counts as unset."""
    accepted, words = TYPES[kind]
    if value is not None and (not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool)):
        raise UserError(f"{where} = {value!r}; valid: {words}")


def check_types(where: str, given: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """`check_type` of every key that is there and that `kinds` names."""
    for key, kind in kinds.items():
        if key in given:
            check_type(f"{where}.{key}", given[key], kind)


def check_keys(where: str, given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises UserError for a key that is not known, with the nearest known one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise UserError(f"{where}.{key} does not exist{hint} (known: {', '.join(sorted(known))})")
