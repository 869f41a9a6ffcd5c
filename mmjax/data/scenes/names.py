"""From an emoji's English label to the name of a countable thing, for the world `all`.

The rule: a concept belongs to the world if one can say "a …", "two …s" of what its picture shows. Labels that are such
phrases are taken as they stand and pluralised by `language.plural`. `_OTHERWISE` rewords those that are not (mass and
plural-only nouns: "a loaf of bread", "a pair of jeans"); flags, clocks and keycaps have a pattern. Left out are what no
count noun says (actions and states: "shrugging", "dizzy", "foggy"), labels that qualify after a colon (families,
directions), and those symbols whose label is not a noun phrase ("infinity", "Aries").
"""

import re

from mmjax.data.scenes.language import Name, article, plural

# Groups and subgroups of which nothing is a thing that one counts.
_OUT_GROUPS = ("component",)
_OUT_SUBGROUPS = ("zodiac", "av-symbol", "math", "punctuation", "currency", "gender", "family", "alphanum", "warning",
                  "transport-sign", "religion", "keycap")  # fmt: skip
# Of the other symbols, those whose label ends in one of these.
_SYMBOL_NOUNS = ("arrow", "circle", "square", "diamond", "star", "button", "mark", "loop", "emblem", "badge", "symbol",
                 "triangle", "dot")  # fmt: skip

_OUT = frozenset({
    # states, actions, phenomena
    "star-struck", "rolling on the floor laughing", "hundred points", "collision", "dizzy", "dashing away", "ZZZ",
    "breast-feeding", "horse racing", "selfie", "nail polish", "camping", "cooking", "foggy", "fog", "sunrise",
    "sunset", "sunrise over mountains", "cityscape at dusk", "night with stars", "bridge at night", "wedding",
    "construction", "building construction", "milky way", "high voltage", "tennis", "bowling", "ping pong",
    "badminton", "lacrosse", "ice hockey", "field hockey", "cricket game", "performing arts", "flower playing cards",
    "moon viewing ceremony", "chart increasing with yen", "sad but relieved face", "head shaking horizontally",
    "head shaking vertically", "exploding head", "sparkles", "fireworks", "love hotel", "hot springs",
    "vulcan salute", "handshake", "face exhaling", "locked", "unlocked", "locked with pen", "locked with key",
    "BACK arrow", "END arrow", "ON! arrow", "SOON arrow", "TOP arrow", "metro", "light rail", "motorway", "link",
    "pouring liquid", "wood", "fondue", "mate", "sake", "custard", "oden", "dango", "herb", "falafel", "level slider",
    "dna", "om", "people hugging", "snowman without snow", "brick", "rock", "speaking head", "family",
    "couple with heart", "kiss", "woman and man holding hands", "anger symbol", "volleyball", "e-mail",
    "knot", "yarn", "Mx Claus", "ice", "butter", "salt", "garlic", "broccoli", "thread", "pig nose", "soap",
    "call me hand", "OK hand", "sign of the horns", "love-you gesture", "index pointing up", "reminder ribbon",
    "index pointing at the viewer", "thumbs up", "thumbs down", "flexed biceps", "kaaba", "moai", "hamsa",
    "Statue of Liberty", "Tokyo tower", "mount fuji", "map of Japan", "globe with meridians", "desert", "beans",
    "part alternation mark", "x-ray", "cinema", "wireless", "vibration mode", "water wave", "comet",
    "no entry", "prohibited", "radioactive", "biohazard", "copyright", "registered", "trade mark", "splatter",
    "fire", "folded hands", "palms up together", "open hands", "raising hands", "clapping hands", "heart hands",
    "middle finger", "crossed fingers", "pinched fingers", "footprints", "paw prints", "biting lip", "hole",
    "disguised face", "Japanese symbol for beginner", "fleur-de-lis", "recycling symbol", "medical symbol",
    "Japanese dolls", "wind face", "cyclone", "tornado", "mending heart", "heart exclamation", "heart decoration",
    "lungs", "eyes", "leaf fluttering in wind", "person in suit levitating", "flag in hole",
})  # fmt: skip

_OTHERWISE: dict[str, tuple[str, str]] = {
    "grapes": ("bunch of grapes", "bunches of grapes"), "cherries": ("pair of cherries", "pairs of cherries"),
    "blueberries": ("bunch of blueberries", "bunches of blueberries"),
    "peanuts": ("pair of peanuts", "pairs of peanuts"), "pancakes": ("stack of pancakes", "stacks of pancakes"),
    "french fries": ("portion of french fries", "portions of french fries"),
    "chopsticks": ("pair of chopsticks", "pairs of chopsticks"), "books": ("stack of books", "stacks of books"),
    "houses": ("row of houses", "rows of houses"), "glasses": ("pair of glasses", "pairs of glasses"),
    "sunglasses": ("pair of sunglasses", "pairs of sunglasses"), "goggles": ("pair of goggles", "pairs of goggles"),
    "jeans": ("pair of jeans", "pairs of jeans"), "gloves": ("pair of gloves", "pairs of gloves"),
    "socks": ("pair of socks", "pairs of socks"), "shorts": ("pair of shorts", "pairs of shorts"),
    "briefs": ("pair of briefs", "pairs of briefs"), "scissors": ("pair of scissors", "pairs of scissors"),
    "ballet shoes": ("pair of ballet shoes", "pairs of ballet shoes"), "skis": ("pair of skis", "pairs of skis"),
    "maracas": ("pair of maracas", "pairs of maracas"), "chains": ("pair of chains", "pairs of chains"),
    "shopping bags": ("pair of shopping bags", "pairs of shopping bags"),
    "crossed swords": ("pair of crossed swords", "pairs of crossed swords"),
    "crossed flags": ("pair of crossed flags", "pairs of crossed flags"),
    "two hearts": ("pair of hearts", "pairs of hearts"),
    "revolving hearts": ("pair of revolving hearts", "pairs of revolving hearts"),
    "prayer beads": ("string of prayer beads", "strings of prayer beads"),
    "nesting dolls": ("nesting doll", "nesting dolls"), "bubbles": ("cluster of bubbles", "clusters of bubbles"),
    "sweat droplets": ("trio of sweat droplets", "trios of sweat droplets"),
    "musical notes": ("group of musical notes", "groups of musical notes"),
    "control knobs": ("set of control knobs", "sets of control knobs"),
    "admission tickets": ("pair of admission tickets", "pairs of admission tickets"),
    "linked paperclips": ("pair of linked paperclips", "pairs of linked paperclips"),
    "bookmark tabs": ("page with bookmark tabs", "pages with bookmark tabs"),
    "card index dividers": ("set of card index dividers", "sets of card index dividers"),
    "film frames": ("strip of film", "strips of film"),
    "clinking beer mugs": ("pair of clinking beer mugs", "pairs of clinking beer mugs"),
    "clinking glasses": ("pair of clinking glasses", "pairs of clinking glasses"),
    "woman’s clothes": ("woman’s blouse", "women’s blouses"),
    "people with bunny ears": ("pair of people with bunny ears", "pairs of people with bunny ears"),
    "men with bunny ears": ("pair of men with bunny ears", "pairs of men with bunny ears"),
    "women with bunny ears": ("pair of women with bunny ears", "pairs of women with bunny ears"),
    "people wrestling": ("pair of people wrestling", "pairs of people wrestling"),
    "men wrestling": ("pair of men wrestling", "pairs of men wrestling"),
    "women wrestling": ("pair of women wrestling", "pairs of women wrestling"),
    "people holding hands": ("pair of people holding hands", "pairs of people holding hands"),
    "men holding hands": ("pair of men holding hands", "pairs of men holding hands"),
    "women holding hands": ("pair of women holding hands", "pairs of women holding hands"),
    "busts in silhouette": ("pair of busts in silhouette", "pairs of busts in silhouette"),
    "bread": ("loaf of bread", "loaves of bread"), "baguette bread": ("baguette", "baguettes"),
    "bacon": ("strip of bacon", "strips of bacon"), "popcorn": ("bucket of popcorn", "buckets of popcorn"),
    "canned food": ("can of food", "cans of food"), "cheese wedge": ("wedge of cheese", "wedges of cheese"),
    "pizza": ("slice of pizza", "slices of pizza"), "watermelon": ("slice of watermelon", "slices of watermelon"),
    "shortcake": ("slice of cake", "slices of cake"), "sushi": ("piece of sushi", "pieces of sushi"),
    "spaghetti": ("plate of spaghetti", "plates of spaghetti"), "cooked rice": ("bowl of rice", "bowls of rice"),
    "curry rice": ("plate of curry rice", "plates of curry rice"),
    "bubble tea": ("cup of bubble tea", "cups of bubble tea"), "ice cream": ("bowl of ice cream", "bowls of ice cream"),
    "soft ice cream": ("ice cream cone", "ice cream cones"), "candy": ("piece of candy", "pieces of candy"),
    "shaved ice": ("bowl of shaved ice", "bowls of shaved ice"),
    "meat on bone": ("piece of meat on a bone", "pieces of meat on a bone"),
    "leafy green": ("bunch of leafy greens", "bunches of leafy greens"), "hot beverage": ("hot drink", "hot drinks"),
    "sheaf of rice": ("sheaf of rice", "sheaves of rice"), "coral": ("piece of coral", "pieces of coral"),
    "money with wings": ("bundle of money with wings", "bundles of money with wings"),
    "luggage": ("suitcase", "suitcases"), "fork and knife": ("knife and fork", "knives and forks"),
    "fork and knife with plate": ("plate with a knife and fork", "plates with a knife and fork"),
    "couch and lamp": ("couch with a lamp", "couches with a lamp"),
    "hammer and pick": ("crossed hammer and pick", "crossed hammers and picks"),
    "hammer and wrench": ("crossed hammer and wrench", "crossed hammers and wrenches"),
    "bow and arrow": ("bow and arrow", "bows and arrows"), "nut and bolt": ("nut and bolt", "nuts and bolts"),
    "automobile": ("car", "cars"), "oncoming automobile": ("oncoming car", "oncoming cars"),
    "articulated lorry": ("truck with a trailer", "trucks with a trailer"), "honeybee": ("bee", "bees"),
    "lady beetle": ("ladybug", "ladybugs"), "deciduous tree": ("leafy tree", "leafy trees"),
    "american football": ("American football", "American footballs"), "rugby football": ("rugby ball", "rugby balls"),
    "headphone": ("pair of headphones", "pairs of headphones"), "dvd": ("DVD", "DVDs"),
    "t-shirt": ("T-shirt", "T-shirts"), "hourglass done": ("empty hourglass", "empty hourglasses"),
    "hourglass not done": ("running hourglass", "running hourglasses"),
    "speaker low volume": ("quiet speaker", "quiet speakers"), "speaker high volume": ("loud speaker", "loud speakers"),
    "speaker medium volume": ("speaker at medium volume", "speakers at medium volume"),
    "camera with flash": ("camera with a flash", "cameras with a flash"),
    "magnifying glass tilted left": ("magnifying glass tilted left", "magnifying glasses tilted left"),
    "magnifying glass tilted right": ("magnifying glass tilted right", "magnifying glasses tilted right"),
    "chart increasing": ("rising chart", "rising charts"), "chart decreasing": ("falling chart", "falling charts"),
    "page facing up": ("page facing up", "pages facing up"),
    "airplane departure": ("airplane taking off", "airplanes taking off"),
    "airplane arrival": ("airplane landing", "airplanes landing"),
    "fish cake with swirl": ("fish cake with a swirl", "fish cakes with a swirl"),
    "backhand index pointing left": ("hand pointing left", "hands pointing left"),
    "backhand index pointing right": ("hand pointing right", "hands pointing right"),
    "backhand index pointing up": ("hand pointing up", "hands pointing up"),
    "backhand index pointing down": ("hand pointing down", "hands pointing down"),
    "palm down hand": ("hand with the palm down", "hands with the palm down"),
    "palm up hand": ("hand with the palm up", "hands with the palm up"),
    "raised back of hand": ("raised back of a hand", "raised backs of hands"),
    "face with open eyes and hand over mouth": (
        "face with open eyes and a hand over its mouth", "faces with open eyes and a hand over their mouths"),
    "grey heart": ("gray heart", "gray hearts"), "chequered flag": ("checkered flag", "checkered flags"),
    "face with hand over mouth": ("face with a hand over its mouth", "faces with a hand over their mouths"),
    "face with tongue": ("face with its tongue out", "faces with their tongues out"),
    "winking face with tongue": ("winking face with its tongue out", "winking faces with their tongues out"),
    "squinting face with tongue": ("squinting face with its tongue out", "squinting faces with their tongues out"),
    "face with steam from nose": ("face with steam from its nose", "faces with steam from their noses"),
    "face with symbols on mouth": ("face with symbols on its mouth", "faces with symbols on their mouths"),
    "umbrella on ground": ("umbrella on the ground", "umbrellas on the ground"),
    "hand with index finger and thumb crossed": (
        "hand with crossed index finger and thumb", "hands with crossed index fingers and thumbs"),
    "person mountain biking": ("person mountain biking", "people mountain biking"),
    "man mountain biking": ("man mountain biking", "men mountain biking"),
    "woman mountain biking": ("woman mountain biking", "women mountain biking"),
    "hindu temple": ("Hindu temple", "Hindu temples"), "shinto shrine": ("Shinto shrine", "Shinto shrines"),
    "ferris wheel": ("Ferris wheel", "Ferris wheels"),
    "person taking bath": ("person taking a bath", "people taking a bath"),
    "globe showing Americas": ("globe showing the Americas", "globes showing the Americas"),
    "globe showing Europe-Africa": ("globe showing Europe and Africa", "globes showing Europe and Africa"),
    "globe showing Asia-Australia": ("globe showing Asia and Australia", "globes showing Asia and Australia"),
    "1st place medal": ("first place medal", "first place medals"),
    "2nd place medal": ("second place medal", "second place medals"),
    "3rd place medal": ("third place medal", "third place medals"),
    "see-no-evil monkey": ("monkey covering its eyes", "monkeys covering their eyes"),
    "hear-no-evil monkey": ("monkey covering its ears", "monkeys covering their ears"),
    "speak-no-evil monkey": ("monkey covering its mouth", "monkeys covering their mouths"),
    "face blowing a kiss": ("face blowing a kiss", "faces blowing kisses"), "joker": ("joker card", "joker cards"),
    "lotus": ("lotus flower", "lotus flowers"), "large orange diamond": ("orange diamond", "orange diamonds"),
    "large blue diamond": ("blue diamond", "blue diamonds"), "black large square": ("black square", "black squares"),
    "white large square": ("white square", "white squares"),
}  # fmt: skip

# Labels drop the article before these ("man with veil"); the names put it back.
_NEEDS_ARTICLE = frozenset({
    "halo", "tear", "open mouth", "raised eyebrow", "peeking eye", "medical mask", "thermometer", "head-bandage",
    "monocle", "diagonal mouth", "wry smile", "arrow", "ribbon", "crown", "turban", "skullcap", "headscarf", "tuxedo",
    "veil", "massage", "haircut", "baby", "white cane", "motorized wheelchair", "manual wheelchair", "steamy room",
    "hearing aid", "speech bubble", "slash", "small cloud", "large cloud", "rain cloud", "cloud", "raised flag",
    "lowered flag", "decorative cover", "curl", "ballot", "face", "hand", "mouth", "garden", "straw", "spoon",
    "popping cork", "handle", "ball", "boat", "umbrella", "lotus position", "flash", "meridian", "bone",
})  # fmt: skip
_COMPLEMENT = re.compile(
    r"^(.+ (?:with|without|in|wearing|getting|feeding|behind|raising|tipping|bouncing|rowing)) ([^ ].*)$"
)
_THE = ("United", "Bahamas", "Philippines", "Netherlands", "Maldives", "Comoros", "Gambia", "Dominican Republic",
        "Central African", "Isle of", "European Union", "Vatican City", "British", "Seychelles", "Caribbean N",
        "French Southern", "Palestinian")  # fmt: skip
_HAIR = re.compile(r"^(person|man|woman): (.+)$")
_SIZED = re.compile(r"\b(small|medium|large)\b")  # scenes draw every thing at any size
_CLOCK = re.compile(r"^(\w+)(?: o’clock|-thirty)$")


def name_of_label(label: str, group: str, subgroup: str) -> Name | None:
    """The name of what an emoji of this English label shows, or None where it is no countable thing.

    >>> name_of_label("flag: France", "flags", "country-flag")
    Name(one='flag of France', many='flags of France')
    """
    if label in _OUT or group in _OUT_GROUPS or subgroup in _OUT_SUBGROUPS or not group:
        return None
    if label in _OTHERWISE:
        return Name(*_OTHERWISE[label])
    if label.startswith("flag: "):
        return _flag(label.removeprefix("flag: "))
    hair = _HAIR.match(label)
    if hair:
        return _haired(hair[1], hair[2])
    if ":" in label:
        return None
    if _CLOCK.match(label):
        return Name(f"clock showing {label.replace('-', ' ')}", f"clocks showing {label.replace('-', ' ')}")
    if group == "symbols" and (not label.endswith(_SYMBOL_NOUNS) or _SIZED.search(label)):
        return None
    complement = _COMPLEMENT.match(label)
    if complement and complement[2] in _NEEDS_ARTICLE:
        label = f"{complement[1]} {article(complement[2])} {complement[2]}"
    return Name(label, plural(label))


def _flag(place: str) -> Name:
    place = place.replace("&", "and").replace(" SAR China", "").replace(" (Burma)", "")
    if place.startswith(_THE) or place.endswith(("Islands", "Territories")):
        place = f"the {place}"
    return Name(f"flag of {place}", f"flags of {place}")


def _haired(person: str, looks: str) -> Name | None:
    """'man: red hair' is a man with red hair; 'woman: bald' is a bald woman."""
    if looks == "bald":
        return Name(f"bald {person}", f"bald {plural(person)}")
    if looks == "beard":
        return Name(f"{person} with a beard", f"{plural(person)} with beards")
    if looks.endswith("hair"):
        return Name(f"{person} with {looks}", f"{plural(person)} with {looks}")
    return None
