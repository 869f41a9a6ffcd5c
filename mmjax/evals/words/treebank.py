"""The Penn Treebank tokenizer that caption metrics are defined on, without Java.

The rules of Stanford's PTBTokenizer 3.4.1 with -lowerCase, as COCO's caption evaluation calls it, for text as captions
have it. Like that program it is a lexer: at each place the longest match of all rules is the next token, and of equally
long ones the first rule's. COCO's evaluation then drops tokens that are punctuation alone.
"""

import re
from collections.abc import Callable, Sequence

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_MONEY = {"£": "#", "€": "$", "¢": "cents", "\u00a4": "$"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": " ", "apos": "'", "quot": '"'}

_LETTER = r"[^\W\d_¼½¾⅓⅔]"
_ALNUM = r"[^\W_¼½¾⅓⅔]"
_APOS = "['\u2019\u0092]"
_NT = "['\u2019\u0092`]"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_NUM = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_PIECE = rf"(?:[dDoOlL]{_APOS}{_ALNUM})?(?:{_ALNUM}+|{_NUM})"
_ENDED = r"(?![A-Za-z])"
_MONTHS = "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
_DAYS = "mon|tue|tues|wed|thu|thurs|fri"
_STATES = ("Ala|Ariz|[A]rk|Calif|Colo|Conn|Dak|Del|Fla|Ga|[I]ll|Ind|Kans?|Ky|[L]a|[M]ass|Md|Mich|Minn|[M]iss|Mo|Mont"
           "|Neb|Nev|Okla|[O]re|[P]a|Penn|Tenn|[T]ex|Va|Vt|[W]ash|Wisc?|Wyo")  # fmt: skip
_TITLES = ("Mr|Mrs|Ms|Miss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?"
           "|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv"
           "|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc")  # fmt: skip
_COMPANIES = "Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Dept|Bhd|Assn|Univ|Intl|Sys"
_OTHERS = "Jr|Sr|Bros|(?:Ed|Ph)\\.D|Blvd|Rd|Esq"
_ALWAYS = "etc|al|seq|c|Bldg|Ph|vs|v|Alex|Wm|Jos|Cie|a\\.k\\.a|cf|TREAS"


def _ignoring_case(words: str) -> str:
    return f"(?i:{words})"


def _bracketed(text: str) -> str:
    return "".join(_BRACKETS.get(character, character) for character in text)


def _double_quotes(text: str) -> str:
    return "``" if text in ("\u201c", "\u00ab") else "''"


def _rule(pattern: str, make: Callable[[str], str] | None = None) -> tuple[re.Pattern, Callable[[str], str] | None]:
    return re.compile(pattern), make


# What a rule matches and how it is written; `None` keeps it. A rule with a group competes by all that it matches, and
# its token is the group; what stands in (?!…) does not compete.
_RULES = [
    _rule(r"</?[A-Za-z!?][^<>\n]{0,}>"),
    _rule(r"&(?:amp|lt|gt|nbsp|apos|quot);", lambda text: _ENTITIES[text[1:-1]]),
    _rule(r"(?:https?|ftp)://[^\s\"`<>|]+[^\s.!?\",;:'<>()\[\]{}|]"),
    _rule(
        r"(?:www\.(?:[^\s\"`<>|.!?,\n]+\.)+[A-Za-z]{2,4}|(?:[^\s\"`'<>|.!?,\-$\n]+\.)+(?:com|net|org|edu))"
        r"(?:/[^\s\"`<>|]+[^\s.!?\",;:'<>()\[\]{}|])?"
    ),
    _rule(r"[A-Za-z0-9][^\s\"<>|()\u00a0{}]*@(?:[^\s\"<>|().\u00a0{}]+\.)*[^\s\"<>|().\u00a0{}]+"),
    _rule(r"[@#][A-Za-z_][A-Za-z_0-9]*"),
    _rule(rf"((?i:can))(?i:not){_ENDED}"),
    _rule(rf"((?i:gon|wan))(?i:na){_ENDED}"),
    _rule(rf"((?i:got))(?i:ta){_ENDED}"),
    _rule(rf"((?i:lem|gim))(?i:me){_ENDED}"),
    _rule(rf"((?i:{_APOS}t))(?i:is|was){_ENDED}"),
    _rule(rf"((?i:y{_APOS}))(?i:all){_ENDED}"),
    _rule(rf"({_LETTER}{_ALNUM}*?)(?i:n{_NT}t){_ENDED}"),
    _rule(rf"(?i:n{_NT}t){_ENDED}", lambda text: re.sub("[\u2019\u0092]", "'", text)),
    _rule(rf"{_APOS}(?i:[smd]|re|ve|ll){_ENDED}", lambda text: "'" + text[1:]),
    _rule(
        rf"(?i:{_APOS}(?:em|cause|till?|n|[2-9]0s|\d\d)|o{_APOS}clock|ma{_APOS}am"
        rf"|d{_APOS}ye|o{_APOS}er|ne{_APOS}er|ol{_APOS}|somethin{_APOS}){_ENDED}"
    ),
    _rule(rf"{_APOS}[nN]{_APOS}"),
    _rule(_WORD),
    _rule(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+"),
    _rule(r"[cC]\+\+|[cCfF]#"),
    _rule(rf"{_PIECE}(?:-{_PIECE})*"),
    _rule(r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", lambda text: text.replace("&amp;", "&")),
    _rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(rf"[-+]?{_NUM}"),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", lambda text: text.replace(" ", "\u00a0")),
    _rule(
        r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}",
        lambda text: _bracketed(text).replace(" ", "\u00a0"),
    ),
    _rule(r"[A-Za-z]\.(?:[A-Za-z]\.)+"),
    _rule(rf"(?:{_ignoring_case(f'{_MONTHS}|{_DAYS}|{_TITLES}|{_COMPANIES}|{_OTHERS}|{_ALWAYS}')}|{_STATES})\."),
    _rule(r"(?i:nos?|figs?|prop|art|bldg|pp|op)\.(?=\s?\d)"),
    _rule(r"[A-Z]\.(?=\s)"),
    _rule(r"[<>]?[:;=8][-o*']?[()DPpdOo{@|\[\]](?![A-Za-z0-9])", _bracketed),
    _rule(r"[¼½¾⅓⅔]", lambda text: _FRACTIONS[text]),
    _rule(r"[A-Z]*\$|[£€¢\u00a4]", lambda text: _MONEY.get(text, text)),
    _rule(r"-{2,}|[\u2013\u2014\u2015]", lambda _: "--"),
    _rule(r"\.{3,}|\.(?: \.){2,}|\u2026", lambda _: "..."),
    _rule(r"``|''|--|[?!]+(?=$|\s|.)"),
    _rule(r"[\"\u201c\u201d\u00ab\u00bb]", _double_quotes),
    _rule(r"[\u2018\u2019\u0091\u0092\u2039\u203a']", lambda text: "`" if text in "\u2018\u0091\u2039" else "'"),
    _rule(r"[()\[\]{}]", _bracketed),
    _rule(r"\*+|_+|~+|\S"),
]
_PLAIN = re.compile(r"[a-z]{3,}(?= [a-z]|$)")
_SPLIT = frozenset(["cannot", "gonna", "wanna", "gotta", "lemme", "gimme"])


def tokens(text: str) -> list[str]:
    """All tokens of a text, punctuation included, in lower case.

    Example:
      >>> tokens("It's the dog's (old) bone.")
      ['it', "'s", 'the', 'dog', "'s", '-lrb-', 'old', '-rrb-', 'bone', '.']
    """
    found, place, text = [], 0, " ".join(text.splitlines())
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        plain = _PLAIN.match(text, place)
        if plain and plain[0] not in _SPLIT:
            found.append(plain[0])
            place = plain.end()
            continue
        longest, end, make = place, place, None
        for pattern, normalise in _RULES:
            match = pattern.match(text, place)
            if match and match.end() > longest:
                longest, end, make = match.end(), match.end(pattern.groups), normalise
        piece = text[place:end]
        found.append(_quote(text, place) if piece in ('"', "'") else make(piece) if make else piece)
        place = end
    return [token.lower() for token in found]


def _quote(text: str, place: int) -> str:
    """A straight quote opens where a word begins after white space or a bracket."""
    opens = (place == 0 or text[place - 1] in " \t([{\"`'") and text[place + 1 : place + 2].strip() != ""
    return ("``" if opens else "''") if text[place] == '"' else ("`" if opens else "'")


def tokenize(texts: Sequence[str]) -> list[str]:
    """Texts as caption metrics see them: tokens without punctuation, joined by one blank.

    Source: Chen et al., Microsoft COCO Captions, §4; the rules of PTBTokenizer 3.4.1.

    Example:
      >>> tokenize(["A man's hat, quietly!"])
      ["a man 's hat quietly"]
    """
    return [" ".join(token for token in tokens(text) if token not in PUNCTUATION) for text in texts]
