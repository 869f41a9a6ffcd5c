"""The licence ledger: what went into a model, and under which terms, as far as its source says.

An entry is {"what": "weights" | "data" | "tokenizer", "name": …, "licence": …, "found": where it says so}. A ledger
travels in the checkpoint's mmjax.json and is printed and written into the model card at export. Nothing is guessed:
where a source says nothing, the licence is "unknown".
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "unknown"
LEDGER = "licences.json"  # of an exported folder, a list
_TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING", "NOTICE", "NOTICE.txt")
_MOST = 2**16  # characters of a card or a licence that are looked at

Entry = dict[str, str]


def entry(what: str, name: str, licence: str, found: str) -> Entry:
    """One line of a ledger."""
    return {"what": what, "name": name, "licence": licence, "found": found}


def of_files(what: str, path: str | pathlib.Path) -> Entry:
    """The licence of a checkpoint or data set on disk: its card's `license` field, else the file that states it.

    Args:
      what: "weights", "data" or "tokenizer".
      path: a folder, or a file beside which the card or the licence stands.
    """
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    card = folder / "README.md"
    if (licence := _card_field(card)) is not None:
        return entry(what, str(path), licence, f"the field `license` of {card.name}")
    for name in _TEXTS:
        if (folder / name).is_file():
            first = next((line.strip() for line in _text(folder / name).splitlines() if line.strip()), "empty")
            return entry(what, str(path), first[:120], f"the first line of {name}")
    return entry(what, str(path), UNKNOWN, "no card with a field `license` and no licence file beside it")


def _card_field(card: pathlib.Path) -> str | None:
    """`license` of a model card's front matter (`license_name` where that is "other")."""
    if not card.is_file():
        return None
    match = re.match(r"---\s*\n(.*?)\n---", _text(card), re.S)
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", match[1], re.M)) if match else {}
    found = fields.get("license_name") if fields.get("license") == "other" else fields.get("license")
    return (found or fields.get("license") or "").strip("\"'") or None


def _text(path: pathlib.Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_MOST)


def merge(*ledgers: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """The entries of several ledgers, each once, in order."""
    found: list[Entry] = []
    for item in (item for ledger in ledgers for item in ledger if isinstance(item, Mapping)):
        plain = {key: str(item.get(key, UNKNOWN)) for key in ("what", "name", "licence", "found")}
        if plain not in found:
            found.append(plain)
    return found


def lines(ledger: Iterable[Mapping[str, str]]) -> list[str]:
    """A ledger for people."""
    return [f"{item['what']} {item['name']}: {item['licence']} ({item['found']})" for item in ledger]
