"""Configs: ml_collections files, resolved, checked against a table of known keys, stored as JSON."""

import difflib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mmjax.core.errors import UserError


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads `FILE.py[:ARGUMENT]` through ml_collections and applies `--config.a.b=value` arguments.

    Raises:
      UserError: no such file; an override of a field that does not exist (with the nearest one) or of another type.
    """
    file = pathlib.Path(str(path).partition(":")[0])
    if not file.is_file():
        near = sorted(str(p) for p in file.parent.glob("[!_]*.py"))
        raise UserError(f"config {file} does not exist; " + (f"there are {near}" if near else "give a Python file"))
    values = flags.FlagValues()
    argv = ["mmjax", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        own = _raised_by_config(error)
        raise UserError(f"{path}: {own}" if own else f"{' '.join(overrides) or path}: {_text(error)}") from error
    return values.config


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


def _raised_by_config(error: BaseException | None) -> UserError | None:
    """The UserError that a config's own code raised, under what ml_collections and absl made of it."""
    found = None
    while error is not None:
        found = error if isinstance(error, UserError) else found
        error = error.__cause__ or error.__context__
    return found


def _text(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()


def plain(config: Any) -> Any:
    """The config as JSON-able dictionaries, lists and scalars."""
    if isinstance(config, ConfigDict | Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise UserError(f"config value {config!r} of type {type(config).__name__} cannot be stored")


def check_keys(where: str, given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises UserError for a key that is not known, with the nearest known one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise UserError(f"{where}.{key} does not exist{hint} (known: {', '.join(sorted(known))})")
