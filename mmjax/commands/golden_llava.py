"""Fixtures of decoders, of CLIP's vision tower alone, and of LLaVA in its layouts."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import systems
from mmjax.commands import models
from mmjax.commands.golden import Arrays, Runner, Unable
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.types import total
from mmjax.data import anyres
from mmjax.data.chat import Row
from mmjax.data.rows import spliced, stacked
from mmjax.decoders import beam
from mmjax.decoders.sample import begin, sample
from mmjax.decoders.settings import Settings
from mmjax.nn.cache import CACHE
from mmjax.systems import base
from mmjax.weights import clip_config, families, files, surgery
from mmjax.weights.clip import hf_vision, hf_vision_buffers
from mmjax.weights.layout import Table

IGNORED, IMAGE_ID = -100, -200


class TextRunner:
    """A checkpoint that reads and writes texts, with the outputs that fixtures ask of it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.loaded = surgery.load(folder, models.shapes)
        self.model: Any = systems.build({**self.loaded.system, "dtype": "float32"})
        self.variables = jax.tree.map(jnp.asarray, self.loaded.variables)
        self.meta = files.read_json(folder / "meta.json")
        self.config = self.loaded.origin.config

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """The outputs among `wanted` that the model has."""
        how = self.meta["tasks"][task].get("generation")
        if how is not None:
            return self.written(inputs, how)
        batch, shown = self.batch(inputs)
        positions = shown.pop("positions", None)
        made = {**shown, **self.computed(batch, positions)}
        if any(name.startswith("grad/") for name in wanted):
            gradient = {"params": jax.jit(jax.grad(lambda p: self.loss(p, batch)))(self.variables["params"])}
            table = families.table_of(self.loaded.system, self.loaded.origin)
            named = table.published(trees.flatten(gradient))
            made |= {f"grad/{key}": value for key, value in named.items()}
        return made

    def batch(self, inputs: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reference's inputs as a batch of ours, and what is seen of it: outputs, and `positions`."""
        ids, valid = inputs["input_ids"], inputs["attention_mask"].astype(bool)
        batch: dict[str, Any] = {"ids": ids, "valid": valid, **self.labels(ids, inputs.get("labels"))}
        if "prefix_embeds" in inputs:
            prefix = inputs["prefix_embeds"]
            batch["prefix"] = prefix
            batch["valid"] = np.concatenate([np.ones(prefix.shape[:2], bool), valid], axis=1)
        return batch, {"positions": inputs.get("position_ids")}

    @staticmethod
    def labels(ids: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
        """What is to be predicted: a label of its own may differ from the id that is read."""
        if labels is None:
            return {"mask_loss": np.zeros(ids.shape, bool)}
        return {"mask_loss": labels != IGNORED, "ids": np.where(labels != IGNORED, labels, ids)}

    def computed(self, batch: dict[str, Any], positions: np.ndarray | None) -> dict[str, Any]:
        """`logits`, zero at padding, `loss` and the embeddings."""

        def forward(model: Any, batch: Any) -> dict[str, Any]:
            x = model.embed(batch)
            if "prefix" in batch:
                x = jnp.concatenate([batch["prefix"], x], axis=1)
            valid = jnp.asarray(batch["valid"])
            logits = model.llm.logits(model.llm(x, valid, positions))
            kept = valid[:, :, None]
            return {"logits": jnp.where(kept, logits, 0.0), "inputs_embeds": jnp.where(kept, x, 0.0)}

        made = dict(jax.jit(lambda v, b: self.model.apply(v, b, method=forward))(self.variables, batch))
        if batch["mask_loss"].any():
            made["loss"] = jax.jit(self.loss)(self.variables["params"], batch)
        return made

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """The objective."""
        terms: Any = self.model.apply({"params": params}, batch, train=False, method="losses")
        return total(terms)

    def written(self, inputs: Arrays, about: Mapping[str, Any]) -> dict[str, Any]:
        """What the model writes. The reference's prompts are padded on the left."""
        ends = about["eos_token_id"]
        how = Settings(
            max_new=about["max_new_tokens"],
            min_new=about.get("min_new_tokens", 0),
            beams=about.get("num_beams", 1),
            length_penalty=float(about.get("length_penalty", 1.0)),
            early_stopping=about.get("early_stopping", False),
            repetition_penalty=float(about.get("repetition_penalty", 1.0)),
            end_ids=tuple(ends) if isinstance(ends, list) else (ends,),
        )
        batch, read = self.prompts(inputs)
        T, new = read.shape[1], about["max_new_tokens"]

        def write(variables: Any, batch: Any) -> Any:
            room = max(T, batch["ids"].shape[1]) + new
            arguments = batch, batch["ids"], batch["valid"], room
            (logits, filled), kept = self.model.apply(variables, *arguments, method="prefill", mutable=[CACHE])
            texts = begin(jnp.asarray(read), jnp.full(len(read), T, jnp.int32), T + new, how)

            def step(cache: Any, ids: jax.Array, at: jax.Array) -> Any:
                out, kept = self.model.apply({**variables, CACHE: cache}, ids, at, method="decode", mutable=[CACHE])
                return out, kept[CACHE]

            if how.beams > 1:
                return beam.search(step, kept[CACHE], logits, filled, texts, how)
            return sample(step, kept[CACHE], logits, filled, texts, jnp.zeros(len(read), jnp.uint32), how)

        texts = jax.jit(write)(self.variables, batch)
        there = np.arange(T, T + new)[None] < np.asarray(texts.length)[:, None]
        pad = about.get("pad_token_id", 0)
        # transformers' beam search takes a padding id of 0 for none, and pads with the end token then.
        fill = (pad or how.end_ids[0]) if how.beams > 1 else pad
        ids = np.where(there, np.asarray(texts.ids)[:, T : T + new], fill)
        return {"new_ids": ids, "sequences_scores": texts.score}

    def prompts(self, inputs: Arrays) -> tuple[dict[str, Any], np.ndarray]:
        """The prompts padded on the right, and the ids that the reference has read, which punishes their repetition."""
        ids, valid = inputs["input_ids"], inputs["attention_mask"].astype(bool)
        order = np.argsort(~valid, axis=1, kind="stable")
        moved = {"ids": np.take_along_axis(ids, order, 1), "valid": np.take_along_axis(valid, order, 1)}
        return moved, self.read(inputs)

    @staticmethod
    def read(inputs: Arrays) -> np.ndarray:
        """The ids of the prompts, a token of the row in the place of padding, which does not count as seen."""
        ids, valid = inputs["input_ids"], inputs["attention_mask"].astype(bool)
        return np.where(valid, ids, np.take_along_axis(ids, valid.argmax(axis=1, keepdims=True), 1))


class LlavaRunner(TextRunner):
    """LLaVA: pictures of the reference, views in the order of their use, become the views of each row."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.original = self.loaded.origin.layout == "llava"
        self.rule = "original" if self.original else "hf"
        img = self.loaded.system["img"]
        self.tile, self.side = img["image_size"], img["image_size"] // img["patch"]
        self.patches = self.side**2 + int(self.loaded.system["keep_cls"])

    def _merge(self) -> str:
        return self.config.get("mm_patch_merge_type", "flat") if self.original else "spatial_unpad"

    def _views(self, inputs: Arrays) -> tuple[np.ndarray, list[int], list[anyres.Size | None]]:
        """(float[n, V, Y, X, 3], views of each picture, their sizes; None: none was cut into tiles)."""
        pixels = inputs.get("images", inputs.get("pixel_values"))
        if pixels is None:
            return np.zeros((0, 1, self.tile, self.tile, 3), np.float32), [], []
        if pixels.ndim == 4:
            return pixels.transpose(0, 2, 3, 1)[:, None], [1] * len(pixels), [None] * len(pixels)
        given = inputs["image_sizes"]
        sizes: list[anyres.Size | None] = [
            anyres.Size(*map(int, pair if self.original else pair[::-1])) for pair in given
        ]
        counts = [self._count(size) for size in sizes] if "n_views" not in inputs else inputs["n_views"].tolist()
        return pixels.transpose(0, 1, 3, 4, 2), counts, sizes

    def _grid(self, size: anyres.Size) -> anyres.Size:
        return anyres.select_grid(size, self.config["image_grid_pinpoints"], self.rule)

    def _count(self, size: anyres.Size | None) -> int:
        grid = self._grid(size) if size is not None else anyres.Size(0, 0)
        return 1 + (grid.width // self.tile) * (grid.height // self.tile)

    def _slots(self, size: anyres.Size | None, views: int, first: int, newline: int) -> np.ndarray:
        if size is None or self.loaded.system["keep_cls"]:
            if views > 1:
                raise Unable("class tokens among the features of tiles")
            return first * self.patches + np.arange(self.patches, dtype=np.int32)
        grid = self._grid(size) if views > 1 else None
        options: dict[str, Any] = {"merge": self._merge(), "rule": self.rule, "tile": self.tile, "side": self.side}
        return anyres.slots(size if views > 1 else None, grid, first=first, newline=newline, **options)

    def _rows(self, inputs: Arrays) -> tuple[list[Row], list[list[int]]]:
        """The rows without padding, each picture one place wide, and the pictures of each row."""
        _, counts, sizes = self._views(inputs)
        image_id = (
            IMAGE_ID if self.original else self.config.get("image_token_index", self.config.get("image_token_id"))
        )
        rows, owned, following = [], [], 0
        labels = inputs.get("labels", np.full_like(inputs["input_ids"], IGNORED))
        for ids, mask, label in zip(inputs["input_ids"], inputs["attention_mask"].astype(bool), labels, strict=True):
            ids, label = ids[mask], label[mask]
            place = ids == image_id
            mine: list[int] = []
            if self.original:  # one place a picture; a row without one uses one up all the same
                mine = list(range(following, following + int(place.sum())))
                following += max(1, len(mine))
            elif place.any():  # one place a feature: all but the first of each picture are taken out
                starts, at = [], np.flatnonzero(place)
                while len(at):
                    mine.append(following)
                    starts.append(at[0])
                    at = at[len(self._slots(sizes[following], counts[following], 0, 0)) :]
                    following += 1
                keep = ~place
                keep[starts] = True
                ids, label, place = ids[keep], label[keep], place[keep]
            image = np.where(place, np.cumsum(place) - 1, -1).astype(np.int32)
            learned = (label != IGNORED) & ~place
            rows.append(Row(np.where(learned, label, np.where(place, 0, ids)).astype(np.int32), learned, image))
            owned.append(mine)
        return rows, owned

    def _spliced(self, inputs: Arrays) -> dict[str, Any]:
        """The batch, padded on the right."""
        pixels, counts, sizes = self._views(inputs)
        rows, owned = self._rows(inputs)
        most = max(1, *(sum(counts[n] for n in mine) for mine in owned))
        image = np.zeros((len(rows), most, self.tile, self.tile, 3), np.float32)
        newline, made = most * self.patches, []
        for number, (row, mine) in enumerate(zip(rows, owned, strict=True)):
            first, slots = 0, []
            for n in mine:
                image[number, first : first + counts[n]] = pixels[n, : counts[n]]
                slots.append(self._slots(sizes[n], counts[n], first, newline))
                first += counts[n]
            made.append(spliced(row, slots, newline + int(self.loaded.system["newline"])))
        longest = self.config.get("tokenizer_model_max_length")
        made = [type(row)(*(part[:longest] for part in row)) for row in made]
        batch = stacked(made)
        return {**batch, "image": image} if len(pixels) else batch

    def batch(self, inputs: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in the base class; Hugging Face's rows keep their padding's side."""
        batch = self._spliced(inputs)
        shown: dict[str, Any] = {}
        if not self.original:
            there = inputs["attention_mask"].astype(bool)
            order = np.argsort(~there, axis=1, kind="stable")
            back = np.argsort(order, axis=1)
            width = there.shape[1] - batch["ids"].shape[1]

            def moved(part: np.ndarray) -> np.ndarray:
                return np.take_along_axis(np.pad(part, ((0, 0), (0, width))), back, axis=1)

            parts = ("ids", "valid", "mask_loss", "slot")
            batch["slot"] = batch["slot"] + 1  # so that padding with 0 is no feature
            batch |= {key: moved(batch[key]) for key in parts}
            batch["slot"] = batch["slot"] - 1
            shown["positions"] = inputs.get("position_ids")
        else:
            valid = batch["valid"]
            shown["new_attention_mask"] = valid.astype(np.int32)
            shown["new_position_ids"] = np.where(valid, np.arange(valid.shape[1])[None], 0)
            shown["new_labels"] = np.where(batch["mask_loss"], batch["ids"], IGNORED)
        return batch, shown

    def computed(self, batch: dict[str, Any], positions: np.ndarray | None) -> dict[str, Any]:
        """And the features of all pictures, one after the other."""
        made = super().computed(batch, positions)
        if "image" not in batch:
            return made
        features = np.asarray(
            jax.jit(lambda v, i: self.model.apply(v, i, method="see"))(self.variables, batch["image"])
        )
        slots = [row[row >= 0] for row in batch["slot"]]
        made["image_features"] = np.concatenate([features[n][slot] for n, slot in enumerate(slots)])
        return made

    def __call__(self, task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        """As in the base class."""
        made = dict(super().__call__(task, inputs, wanted))
        if "feature_lens" in wanted:
            _, counts, sizes = self._views(inputs)
            lengths = [len(self._slots(size, n, 0, 0)) for size, n in zip(sizes, counts, strict=True)]
            made["feature_lens"] = np.array(lengths, np.int32)
        return made

    def prompts(self, inputs: Arrays) -> tuple[dict[str, Any], np.ndarray]:
        """The spliced prompts; the reference has read Hugging Face's ids, and none of the original's embeddings."""
        batch = self._spliced(inputs)
        return batch, np.zeros((len(batch["ids"]), 0), np.int32) if self.original else self.read(inputs)


def open_language(folder: pathlib.Path) -> Runner:
    """The runner of a folder with a decoder."""
    return TextRunner(folder)


def open_llava(folder: pathlib.Path) -> Runner:
    """The runner of a folder with a LLaVA."""
    return LlavaRunner(folder)


def open_tower(folder: pathlib.Path) -> Runner:
    """The runner of a folder with CLIP's vision tower alone."""
    config, tensors = files.read_json(folder / "config.json"), files.open_tensors(folder)
    img = clip_config.vision_from(config, str(folder / "config.json"))
    mark = "pre_layrnorm.weight"
    before = next((key.removesuffix(mark) for key in tensors.keys() if key.endswith(mark)), "")  # noqa: SIM118
    model = base.image_tower("img", {**img, "taps": (-2,)}, features=0, dtype=jnp.float32)
    image = jax.ShapeDtypeStruct((1, img["image_size"], img["image_size"], 3), jnp.float32)
    made = jax.eval_shape(lambda i: model.init(jax.random.key(0), i)["params"], image)
    shapes = {path: tuple(leaf.shape) for path, leaf in trees.flatten({"params": {"img": shd.unbox(made)}}).items()}
    table = Table("hf", hf_vision(before), hf_vision_buffers(before, img), {"i": img["depth"]})
    flat, _ = table.read(tensors, shapes, str(folder))
    params = trees.unflatten(flat)["params"]["img"]

    def run(task: str, inputs: Arrays, wanted: list[str]) -> Mapping[str, Any]:
        image = jnp.asarray(inputs["pixel_values"].transpose(0, 2, 3, 1))
        out = jax.jit(lambda p, i: model.apply({"params": p}, i))(params, image)
        tapped = out.tapped[0]
        return {
            "penultimate": tapped,
            "penultimate_patches": tapped[:, 1:],
            "last_hidden_state": out.tokens,
            "pooler_output": out.pooled,
        }

    return run
