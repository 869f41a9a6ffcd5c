"""From the evaluators of a config to evaluators: one table of kinds."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.core.errors import UserError
from mmjax.evals import (
    caption,
    choice,
    freeform,
    linear_probe,
    matching,
    presence,
    rerank,
    retrieval,
    verdict,
    vqa,
    zeroshot,
)  # fmt: skip
from mmjax.evals.base import Evaluator, Tools

KINDS: dict[str, Callable[[str, Mapping[str, Any], Tools], Evaluator]] = {
    "retrieval": retrieval.build,
    "zeroshot": zeroshot.build,
    "linear_probe": linear_probe.build,
    "rerank": rerank.build,
    "matching": matching.build,
    "caption": caption.build,
    "vqa": vqa.build,
    "verdict": verdict.build,
    "pope": presence.build,
    "choice": choice.build,
    "freeform": freeform.build,
}


def build_evaluator(name: str, spec: Mapping[str, Any], tools: Tools) -> Evaluator:
    """An evaluator from its config, e.g. `{"kind": "retrieval", "data": "emoji:fluent", "gallery": "emoji:all"}`.

    Args:
      name: prefix of its metrics.
      spec: `kind`, one of KINDS, and the options of that kind (see the `build` of its module). None counts as unset.
      tools: what it needs from data and tokenizer.

    Raises:
      UserError: an unknown kind or option, or a missing option.
    """
    options = {key: value for key, value in spec.items() if value is not None}
    kind = options.pop("kind", None)
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"evaluator {name!r}: kind {kind!r} is not one of {sorted(KINDS)}{hint}")
    for key, least in (("limit", 1), ("resamples", 0)):
        value = options.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"evaluator {name!r}: {key} = {value!r}; valid: a whole number, at least {least}")
    try:
        return KINDS[kind](name, options, tools)
    except UserError as error:
        raise UserError(f"evaluator {name!r}: {error}") from error
