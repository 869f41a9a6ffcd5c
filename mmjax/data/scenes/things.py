"""The things of each world, from the emoji pack: a table of 64 for `default`, a rule for `all`."""

import functools

from mmjax.core.errors import UserError
from mmjax.data import emoji
from mmjax.data.choices import choose
from mmjax.data.scenes.language import Name
from mmjax.data.scenes.names import name_of_label
from mmjax.data.scenes.sprites import SpriteBank
from mmjax.data.scenes.world import Thing, World, content_words

WORLDS = ("default", "all")

# English label in the pack -> what one and several of it are called. All 64 are in the pack's train split, are drawn
# in all three styles, look unlike each other, and stay true when mirrored.
EVERYDAY: dict[str, tuple[str, str]] = {
    # animals
    "dog": ("dog", "dogs"), "cat": ("cat", "cats"), "cow": ("cow", "cows"), "pig": ("pig", "pigs"),
    "rabbit": ("rabbit", "rabbits"), "mouse": ("mouse", "mice"), "giraffe": ("giraffe", "giraffes"),
    "lion": ("lion", "lions"), "zebra": ("zebra", "zebras"), "camel": ("camel", "camels"),
    "monkey": ("monkey", "monkeys"), "panda": ("panda", "pandas"), "penguin": ("penguin", "penguins"),
    "parrot": ("parrot", "parrots"), "owl": ("owl", "owls"), "duck": ("duck", "ducks"), "frog": ("frog", "frogs"),
    "turtle": ("turtle", "turtles"), "whale": ("whale", "whales"), "fish": ("fish", "fish"), "crab": ("crab", "crabs"),
    "honeybee": ("bee", "bees"),
    # plants and food
    "deciduous tree": ("tree", "trees"), "cactus": ("cactus", "cacti"), "sunflower": ("sunflower", "sunflowers"),
    "mushroom": ("mushroom", "mushrooms"), "red apple": ("apple", "apples"), "banana": ("banana", "bananas"),
    "strawberry": ("strawberry", "strawberries"), "pineapple": ("pineapple", "pineapples"),
    "watermelon": ("slice of watermelon", "slices of watermelon"), "avocado": ("avocado", "avocados"),
    "carrot": ("carrot", "carrots"), "hamburger": ("hamburger", "hamburgers"), "doughnut": ("doughnut", "doughnuts"),
    "soft ice cream": ("ice cream cone", "ice cream cones"), "cookie": ("cookie", "cookies"),
    "birthday cake": ("cake", "cakes"),
    # travel and weather
    "automobile": ("car", "cars"), "train": ("train", "trains"), "bicycle": ("bicycle", "bicycles"),
    "tractor": ("tractor", "tractors"), "helicopter": ("helicopter", "helicopters"), "rocket": ("rocket", "rockets"),
    "house": ("house", "houses"), "umbrella": ("umbrella", "umbrellas"), "rainbow": ("rainbow", "rainbows"),
    "robot": ("robot", "robots"), "sun": ("sun", "suns"),
    # things
    "soccer ball": ("soccer ball", "soccer balls"), "teddy bear": ("teddy bear", "teddy bears"),
    "guitar": ("guitar", "guitars"), "trumpet": ("trumpet", "trumpets"), "drum": ("drum", "drums"),
    "alarm clock": ("alarm clock", "alarm clocks"), "chair": ("chair", "chairs"), "crown": ("crown", "crowns"),
    "camera": ("camera", "cameras"), "television": ("television", "televisions"), "pencil": ("pencil", "pencils"),
    "key": ("key", "keys"), "hammer": ("hammer", "hammers"), "top hat": ("hat", "hats"),
    "red heart": ("heart", "hearts"),
}  # fmt: skip

# Mirrored, these still are what their label says; signs, faces with sides, clocks and flags may not be.
_MAY_FLIP = ("animals-nature", "food-drink")


@functools.lru_cache(maxsize=16)
def open_world(name: str, styles: tuple[str, ...]) -> World:
    """The world of that name, of things that all of `styles` have pictures of.

    Raises:
      UserError: there is no such world.
    """
    choose("world of the source emoji_scenes", name, WORLDS)
    concepts = [c for c in emoji.split_concepts("train") if set(styles) <= set(c.styles)]
    if name == "default":
        by_label = {concept.labels["en"]: concept for concept in concepts}
        missing = [label for label in EVERYDAY if label not in by_label]
        if missing:
            raise UserError(
                f"the emoji pack has no training concept {', '.join(missing)} in styles {', '.join(styles)}"
            )
        # Only the name counts as what it could be mistaken for: the table was chosen by eye.
        return World(name, [_thing(by_label[label], Name(*names), True, ()) for label, names in EVERYDAY.items()])
    things = []
    for concept in concepts:
        found = name_of_label(concept.labels["en"], concept.group, concept.subgroup)
        if found is not None:
            flip = concept.group in _MAY_FLIP
            things.append(_thing(concept, found, flip, (concept.labels["en"],)))
    return World(name, things)


def _thing(concept: emoji.Concept, name: Name, flip: bool, also: tuple[str, ...]) -> Thing:
    return Thing(concept.key, concept.id, name, flip, content_words(name.one, name.many, *also))


@functools.cache
def shared_bank() -> SpriteBank:
    """One cache of scaled sprites for all sources of a process."""
    return SpriteBank(emoji.sprites)
