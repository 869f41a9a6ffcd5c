"""English for generated text: articles by sound, plurals, number words, lists, and the `Name` of a thing.

Nothing here is a general grammar: the rules cover noun phrases of a few words, as emoji labels are, and the tables
give what the rules would get wrong.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# Words that begin with a vowel letter and a consonant sound, or the other way round.
_CONSONANT_SOUND = ("uni", "use", "usa", "uten", "uku", "ura", "eu", "ewe", "one-", "one ", "once", "ubi", "u-")
_VOWEL_SOUND_WORDS = {"hour", "hourglass", "honest", "honor", "honour", "heir", "x-ray", "x", "8", "11", "18"}
_BUT_VOWEL_SOUND = ("unim", "unin", "unid")  # unimpressed, uninvited, unidentified: "un-" and not "uni-"
# Short words in capitals are spelled out ("an SOS button"), except for these, which are spoken as words.
_SPOKEN_CAPITALS = {"NEW", "COOL", "FREE", "TOP", "BACK", "END", "SOON", "ON", "UP", "NO", "VS"}
_VOWEL_LETTER_NAMES = set("AEFHILMNORSX")

_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "leaf": "leaves", "wolf": "wolves", "knife": "knives",
    "loaf": "loaves", "elf": "elves", "scarf": "scarves", "shelf": "shelves", "half": "halves", "calf": "calves",
    "fish": "fish", "sheep": "sheep", "deer": "deer", "moose": "moose", "bison": "bison", "squid": "squid",
    "shrimp": "shrimp", "aircraft": "aircraft", "dice": "dice", "die": "dice", "bus": "buses", "minibus": "minibuses",
    "trolleybus": "trolleybuses", "cactus": "cacti", "octopus": "octopuses", "walrus": "walruses", "lens": "lenses",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "volcano": "volcanoes", "hero": "heroes",
    "superhero": "superheroes", "tornado": "tornadoes", "flamingo": "flamingos", "merman": "mermen",
    "policeman": "policemen", "snowman": "snowmen", "merperson": "merpeople", "quiz": "quizzes",
}  # fmt: skip

# A noun phrase is pluralised at its head: the word before the first of these (or before a word in -ing).
_AFTER_HEAD = {
    "with", "without", "in", "of", "on", "at", "behind", "over", "showing", "wearing", "for", "to", "from", "by",
    "under", "and",
}  # fmt: skip
_ING_NOUNS = {"ring", "string", "wing", "king", "painting", "building", "earring", "clothing", "duckling", "swing",
              "seedling", "evening", "morning", "ceiling", "drawing", "thing", "spring",
              "dumpling", "wedding", "sibling"}  # fmt: skip


@functools.lru_cache(maxsize=65536)
def article(phrase: str) -> str:
    """'a' or 'an', by the sound that `phrase` begins with.

    >>> [article(p) for p in ("dog", "apple", "hour", "unicorn", "one-piece swimsuit", "SOS button", "old key")]
    ['a', 'an', 'an', 'a', 'a', 'an', 'an']
    """
    first = re.split(r"[ ,]", phrase.strip("“”\"'"), maxsplit=1)[0].rstrip("!?")
    word = first.lower()
    if word in _VOWEL_SOUND_WORDS:
        return "an"
    if first.isupper() and len(first) <= 4 and first not in _SPOKEN_CAPITALS:
        return "an" if first[0] in _VOWEL_LETTER_NAMES else "a"
    start = phrase.strip("“”\"'").lower()
    if start.startswith(_CONSONANT_SOUND) and not start.startswith(_BUT_VOWEL_SOUND):
        return "a"
    return "an" if word[:1] in tuple("aeiou") else "a"


def plural_word(word: str) -> str:
    """The plural of one noun: irregular forms from the table, then the spelling rules.

    >>> [plural_word(w) for w in ("dog", "box", "cherry", "monkey", "mouse", "fish")]
    ['dogs', 'boxes', 'cherries', 'monkeys', 'mice', 'fish']
    """
    lower = word.lower()
    if lower in _IRREGULAR:
        return word[0] + _IRREGULAR[lower][1:] if word[0].isupper() else _IRREGULAR[lower]
    if lower.endswith("fish"):  # jellyfish, blowfish
        return word
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if lower.endswith("y") and len(lower) > 1 and lower[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def plural(phrase: str) -> str:
    """The plural of a noun phrase, at its head: the word before the first preposition or '-ing' form, else the last.

    >>> [plural(p) for p in ("red apple", "cup with straw", "person in bed", "woman teacher", "man running")]
    ['red apples', 'cups with straw', 'people in bed', 'women teachers', 'men running']
    """
    words = phrase.split(" ")
    head = len(words) - 1
    for place in range(1, len(words)):
        word = words[place].lower()
        follows_someone = words[place - 1].lower() in ("person", "man", "woman", "face")
        if word in _AFTER_HEAD or (follows_someone and word.endswith("ing") and word not in _ING_NOUNS):
            head = place - 1
            break
    words[head] = plural_word(words[head])
    if head > 0 and words[0] in ("man", "woman"):  # "women teachers", as "women doctors"
        words[0] = plural_word(words[0])
    return " ".join(words)


def listing(items: Sequence[str], last: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def sentence(text: str) -> str:
    """`text` with its first letter in upper case and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


class Name(NamedTuple):
    """How a thing is named: singular and plural noun phrases without article ('dog', 'dogs')."""

    one: str
    many: str

    def counted(self, count: int, adjective: str = "", number: bool = False) -> str:
        """'a dog', 'a small dog', 'two dogs', 'three big dogs'; with `number` also 'one dog'."""
        noun = self.one if count == 1 else self.many
        phrase = f"{adjective} {noun}" if adjective else noun
        if count == 1 and not number:
            return f"{article(phrase)} {phrase}"
        return f"{NUMBERS[count]} {phrase}"

    def definite(self, count: int, number: bool = False) -> str:
        """'the dog', 'the dogs'; with `number` 'the two dogs'."""
        if count == 1:
            return f"the {self.one}"
        return f"the {NUMBERS[count]} {self.many}" if number else f"the {self.many}"

    def bare(self, count: int) -> str:
        """'dog' or 'dogs'."""
        return self.one if count == 1 else self.many


def is_are(count: int) -> str:
    """The verb that agrees with `count` things."""
    return "is" if count == 1 else "are"
