"""`emoji_scenes`: generated scenes as a data source, and one scene as an object that makes what is asked of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from mmjax.core.errors import UserError
from mmjax.data import emoji
from mmjax.data.choices import choose
from mmjax.data.example import NO_PICTURE, Example
from mmjax.data.scenes.captions import Caption, caption_texts, plan_captions, write
from mmjax.data.scenes.dice import Dice
from mmjax.data.scenes.graph import Graph, build_graph
from mmjax.data.scenes.noise import spoil
from mmjax.data.scenes.questions import Question, make_questions
from mmjax.data.scenes.render import render
from mmjax.data.scenes.sprites import SpriteBank
from mmjax.data.scenes.talk import conversation, referring
from mmjax.data.scenes.things import WORLDS, open_world, shared_bank
from mmjax.data.scenes.world import MOST_KINDS, SPLITS, World

PARTS = ("image", "captions", "graph", "questions", "referring", "conversation")
DEFAULT_PARTS = ("image", "captions", "graph")
LENGTHS = {"train": 100_000, "val": 2_000, "test": 5_000}
_LARGEST = 4096


@dataclass(frozen=True)
class Scene:
    """One scene. Every method is a pure function of the scene: each draws from dice of its own, so that asking for
    one thing never changes another."""

    stream: str  # world/split/seed, and /kinds where they are limited
    index: int
    graph: Graph
    world: World
    bank: SpriteBank

    @property
    def key(self) -> str:
        """Names the scene among all that there are."""
        return f"emoji_scenes/{self.stream}/{self.index}"

    def dice(self, purpose: str) -> Dice:
        """The random numbers of this scene for one purpose."""
        return Dice.keyed(f"{self.stream} {purpose}", self.index)

    def render(self, size: int) -> UInt8[np.ndarray, "Y X 3"]:
        """The image, uint8[size, size, 3]."""
        return render(self.graph, self.bank, size)

    def plans(self) -> list[Caption]:
        """The five captions as claims."""
        return plan_captions(self.graph, self.dice("captions"))

    def captions(self) -> list[str]:
        """Five captions, all true and all different."""
        return caption_texts(self.plans(), self.world.name_of)

    def questions(self) -> list[Question]:
        """Questions with answers, every kind that the scene allows."""
        return make_questions(self.graph, self.world, self.dice("questions"))

    def referring(self) -> list[tuple[str, int]]:
        """(expression, place of the one object that it fits)."""
        return referring(self.graph, self.world.name_of, self.dice("referring"))

    def conversation(self) -> list[tuple[str, str]]:
        """Two to four exchanges, (role, text) in turn."""
        dice = self.dice("conversation")
        return conversation(self.graph, self.world.name_of, dice.shuffled(self.questions()), dice)

    def boxes(self) -> Float32[np.ndarray, "N 4"]:
        """What is opaque in each object, float32[N, 4] as x0, y0, x1, y1 in shares of the canvas side."""
        return np.array([item.box for item in self.graph.objects], np.float32)

    def names(self) -> list[str]:
        """Each object's name, singular and without article."""
        return [self.world.name_of(item.thing).one for item in self.graph.objects]

    def depth(self) -> Int32[np.ndarray, " N"]:
        """Each object's place in the drawing order, int32[N]: 0 is the farthest."""
        return np.array([item.depth for item in self.graph.objects], np.int32)


class SceneExample(Example, total=False):
    """An example of `emoji_scenes`: what `Scenes` lists, by `parts`."""

    texts_true: list[str]  # with noise: what `texts` would be without
    caption_is_true: list[bool]
    noise_kind: list[str]  # "" for a true caption, else other, swapped or reversed
    boxes: np.ndarray  # float32[N, 4]: x0, y0, x1, y1 in shares of the canvas side
    names: list[str]
    depth: np.ndarray  # int32[N], 0 = farthest
    background: str  # its colour
    referring: list[tuple[str, int]]  # expression, object
    conversation: list[tuple[str, str]]  # role, text


class Scenes:
    """Random access to generated scenes (the Source protocol). Element i depends on the options and i alone.

    An example has what `parts` names:

    image         image uint8[size, size, 3]
    captions      texts: five captions; with noise also texts_true, caption_is_true and noise_kind, five each
    graph         boxes float32[N, 4], names, depth int32[N], background
    questions     questions: (question, answer, kind)
    referring     referring: (expression, object)
    conversation  conversation: (role, text)

    Pickles as its options: a worker process loads the sprites itself, once.
    """

    def __init__(
        self,
        split: str = "train",
        world: str = "default",
        *,
        size: int = 64,
        seed: int = 0,
        length: int | None = None,
        noise: float = 0.0,
        kinds: int = MOST_KINDS,
        styles: Sequence[str] = emoji.TRAIN_STYLES,
        parts: Sequence[str] = DEFAULT_PARTS,
    ) -> None:
        """Args as in the spec `emoji_scenes:WORLD-SPLIT?size=64&…`; `length` None takes the split's own.

        Raises:
            UserError: for a value that is not possible, naming the possible ones.
        """
        choose("split of the source emoji_scenes", split, SPLITS)
        choose("world of the source emoji_scenes", world, WORLDS)
        for style in styles:
            choose("style of the source emoji_scenes", style, emoji.STYLES)
        for part in parts:
            choose("part of the source emoji_scenes", part, PARTS)
        if not styles or not parts:
            raise UserError("emoji_scenes: needs at least one style and one part")
        if not 8 <= size <= _LARGEST:
            raise UserError(f"emoji_scenes: size={size} is out of range; valid: 8 to {_LARGEST} pixels")
        if not 0.0 <= noise <= 1.0:
            raise UserError(f"emoji_scenes: noise={noise} is no share; valid: 0 to 1")
        fewest = 1 if split == "train" else 2  # val and test are made of the pairs that they hold out
        if not fewest <= kinds <= MOST_KINDS:
            raise UserError(f"emoji_scenes: kinds={kinds} in split {split}; valid: {fewest} to {MOST_KINDS}")
        self.split, self.world_name, self.size, self.seed, self.noise = split, world, size, seed, noise
        self.kinds = kinds
        self.styles, self.parts = tuple(styles), tuple(parts)
        self.length = LENGTHS[split] if length is None else length
        if self.length < 2:
            raise UserError(f"emoji_scenes: length={self.length}; valid: 2 or more")
        self.name = (
            f"emoji_scenes:{world}-{split}?size={size}&seed={seed}&length={self.length}&noise={noise}"
            f"&kinds={kinds}&styles={','.join(self.styles)}&parts={','.join(self.parts)}"
        )

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("world", "bank")}

    @functools.cached_property
    def world(self) -> World:
        """The things of these scenes."""
        return open_world(self.world_name, self.styles)

    @functools.cached_property
    def bank(self) -> SpriteBank:
        """The sprites, shared by all sources of this process."""
        return shared_bank()

    def scene(self, index: int) -> Scene:
        """Scene `index`, 0 ≤ index < len(self)."""
        place = int(index)
        if not 0 <= place < self.length:
            raise IndexError(f"scene {place} of {self.length}")
        stream = f"{self.world_name}/{self.split}/{self.seed}" + (f"/{self.kinds}" if self.kinds < MOST_KINDS else "")
        dice = Dice.keyed(f"{stream} graph", place)
        graph = build_graph(self.world, self.bank, self.styles, dice, self.split, self.kinds)
        return Scene(stream, place, graph, self.world, self.bank)

    def __getitem__(self, index: int) -> SceneExample:
        return cast(SceneExample, self._example(index, self.parts))

    def without_image(self, index: int) -> dict[str, Any]:
        """The example at a position, its `image` NO_PICTURE and not drawn."""
        rest = self._example(index, [part for part in self.parts if part != "image"])
        return {**rest, "image": NO_PICTURE} if "image" in self.parts else rest

    def _example(self, index: int, parts: Sequence[str]) -> dict[str, Any]:
        scene = self.scene(index)
        example: dict[str, Any] = {"key": scene.key}
        for part in parts:
            example |= getattr(self, f"_{part}_part")(scene)
        return example

    def _image_part(self, scene: Scene) -> Mapping[str, Any]:
        return {"image": scene.render(self.size)}

    def _captions_part(self, scene: Scene) -> Mapping[str, Any]:
        plans, names = scene.plans(), self.world.name_of
        true = caption_texts(plans, names)
        if not self.noise:
            return {"texts": true}
        spoiled, kinds = spoil(
            scene.graph, self.world, plans, self.noise, scene.dice("noise"), self._other_plans(scene)
        )
        texts = [write(plan, names) if kind else text for text, plan, kind in zip(true, spoiled, kinds, strict=True)]
        return {
            "texts": texts,
            "texts_true": true,
            "caption_is_true": [not kind for kind in kinds],
            "noise_kind": kinds,
        }

    def _other_plans(self, scene: Scene) -> Callable[[Dice], list[Caption]]:
        def another(dice: Dice) -> list[Caption]:
            index = (scene.index + 1 + dice.below(self.length - 1)) % self.length
            return self.scene(index).plans()

        return another

    def _graph_part(self, scene: Scene) -> Mapping[str, Any]:
        background = scene.graph.background.colour
        return {"boxes": scene.boxes(), "names": scene.names(), "depth": scene.depth(), "background": background}

    def _questions_part(self, scene: Scene) -> Mapping[str, Any]:
        return {"questions": [(q.text, q.answer, q.kind) for q in scene.questions()]}

    def _referring_part(self, scene: Scene) -> Mapping[str, Any]:
        return {"referring": scene.referring()}

    def _conversation_part(self, scene: Scene) -> Mapping[str, Any]:
        return {"conversation": scene.conversation()}


def open(
    arg: str | None = None,
    *,
    split: str | None = None,
    world: str | None = None,
    size: int = 64,
    seed: int = 0,
    length: int | None = None,
    noise: float = 0.0,
    kinds: int = MOST_KINDS,
    styles: str = ",".join(emoji.TRAIN_STYLES),
    parts: str = ",".join(DEFAULT_PARTS),
) -> Scenes:
    """The source `emoji_scenes[:ARG][?option=value&…]`.

    Args:
      arg: a split (train, val, test), a world (default, all) or both, as in all-test.
      split: train unless told.
      world: default (64 everyday things) unless told; all has every countable concept of the pack's train split.
      size: side of the image in pixels.
      seed: another seed, other scenes; what each split holds out stays the same.
      length: how many scenes there are; unless told 100,000 to train on, 2,000 for val and 5,000 for test.
      noise: share of captions made wrong on purpose.
      kinds: most kinds of things in a scene, 1 to 4: easy scenes to begin with. Val and test need 2 or more.
      styles: emoji styles, with commas.
      parts: what an example has, with commas: image, captions, graph, questions, referring, conversation; or all.

    Raises:
      UserError: an unknown or impossible value; the message lists the valid ones.

    Example:
      >>> source = open("test", length=100, noise=0.2)
      >>> len(source), source[0]["image"].shape, len(source[0]["texts"])
      (100, (64, 64, 3), 5)
    """
    given = {"split": split, "world": world}
    for word in arg.split("-") if arg else ():
        choose("argument of the source emoji_scenes", word, (*SPLITS, *WORLDS))
        kind = "split" if word in SPLITS else "world"
        if given[kind] not in (None, word):
            raise UserError(f"emoji_scenes:{arg} gives the {kind} twice: {given[kind]} and {word}")
        given[kind] = word
    return Scenes(
        given["split"] or "train",
        given["world"] or "default",
        size=size,
        seed=seed,
        length=length,
        noise=noise,
        kinds=kinds,
        styles=tuple(styles.split(",")),
        parts=PARTS if parts == "all" else tuple(parts.split(",")),
    )
