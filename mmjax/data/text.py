"""Which text of an example a step sees: one of its captions, or a phrase made from its label and tags."""

import dataclasses
import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.core.errors import UserError
from mmjax.data.choices import choose
from mmjax.data.example import BadExample

FORMS = ("first", "text", "label", "label_tags", "tags", "prompt")

# One of these frames the label when the form is "prompt".
TEMPLATES: dict[str, tuple[str, ...]] = {
    "emoji": (
        "{}",
        "{} emoji",
        "an emoji of {}",
        "an icon of {}",
        "a drawing of {}",
        "a small picture of {}",
        "a symbol: {}",
        "a cartoon of {}",
    ),
    "photo": (
        "a photo of a {}.",
        "a picture of a {}.",
        "a close-up photo of a {}.",
        "a bad photo of a {}.",
        "a good photo of a {}.",
        "a drawing of a {}.",
        "art of a {}.",
    ),
}

_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """A caption with HTML entities resolved, Unicode in composed form and runs of white space as one blank.

    Example:
      >>> clean("  salt &amp;amp;  pepper ")
      'salt & pepper'
    """
    # Twice: text from the web is often escaped twice. As in CLIP's tokenizer.
    return _SPACE.sub(" ", unicodedata.normalize("NFC", html.unescape(html.unescape(text)))).strip()


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """Draws one text for an example.

    Attributes:
      forms: weights of
        "first" (the first of `texts`: for validation, nothing is drawn),
        "text" (one of `texts`),
        "label" (the label in one of `languages`),
        "label_tags" (the label, then one to `max_tags` shuffled tags),
        "tags" (one to `max_tags` shuffled tags alone),
        "prompt" (the label in one of `templates`).
        A form that an example lacks the material for (say, no tags in that language) is left out for that example;
        texts of which nothing is left when they are cleaned do not count as material.
      languages: keys of the example's `labels` and `tags`, drawn evenly among those the example has.
      templates: names in `TEMPLATES` or templates of your own with one `{}`.
      max_tags: at least 1.
      drop_words: chance of each word to be left out, in half of the texts; one word always stays. Every word has to be
        learned by itself then, which is what an unseen combination of words needs.
      clean: whether `clean` is applied to the result.

    Raises:
      UserError: an unknown form, a bad weight or template; when called, an example that has none of the forms.
      BadExample: when called: the example's texts are blank.

    Example:
      >>> choose = TextChoice(forms={"prompt": 1}, templates=("a photo of a {}.",))
      >>> choose(dict(labels={"en": "cat"}), np.random.default_rng(0))
      'a photo of a cat.'
    """

    forms: Mapping[str, float | int] = dataclasses.field(default_factory=lambda: {"text": 1.0})
    languages: Sequence[str] = ("en",)
    templates: Sequence[str] = ("emoji",)
    max_tags: int = 3
    drop_words: float = 0.0
    clean: bool = True

    def __post_init__(self):
        forms = {name: float(weight) for name, weight in dict(self.forms).items()}
        if set(forms) - set(FORMS) or any(not weight >= 0 for weight in forms.values()) or sum(forms.values()) <= 0:
            raise UserError(f"text forms = {forms}; valid: positive weights for {', '.join(FORMS)}")
        if isinstance(self.languages, str) or not self.languages:
            raise UserError(f"text languages = {self.languages!r}; valid: a list such as ['en', 'de']")
        if isinstance(self.templates, str) or not self.templates:
            raise UserError(f"text templates = {self.templates!r}; valid: a list such as ['emoji'] or ['a {{}}.']")
        for template in self.templates:
            if template not in TEMPLATES and template.count("{}") != 1:
                raise UserError(
                    f"text template {template!r}; valid: {', '.join(TEMPLATES)}, or a text with one {{}} for the label"
                )
        if self.max_tags < 1:
            raise UserError(f"text max_tags = {self.max_tags}; valid: at least 1")
        if not 0 <= self.drop_words < 1:
            raise UserError(f"text drop_words = {self.drop_words}; valid: 0 <= drop_words < 1")
        object.__setattr__(self, "forms", {name: weight for name, weight in forms.items() if weight > 0})
        object.__setattr__(self, "languages", tuple(self.languages))
        object.__setattr__(self, "templates", tuple(self.templates))

    def check(self, example: Mapping[str, Any]) -> None:
        """Returns if there is a text to draw.

        Raises:
          BadExample: "empty caption": there is material for the forms, and it is blank.
          UserError: there is none at all, so that the forms are not for this source.
        """
        if self._options(example):
            return
        texts, labels, tags = example.get("texts"), example.get("labels") or {}, example.get("tags") or {}
        none = texts is not None and not len(texts) and {"first", "text"} & set(self.forms)
        if none or self._options(example, blank=True):
            raise BadExample("empty caption", f"{len(texts or ())} texts", str(example.get("key", "")))
        raise UserError(
            f"example {example.get('key', '?')!r} has no text for the forms {list(self.forms)} in the languages "
            f"{list(self.languages)}: it has {len(texts or ())} texts, labels in {sorted(labels)} and tags in "
            f"{sorted(tags)}"
        )

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> str:
        """One text of the example, never empty; raises as `check` does."""
        options = self._options(example)
        if not options:
            self.check(example)
        form, languages = options[_weighted([self.forms[name] for name, _ in options], rng)]
        text = self._make(example, form, languages, rng)
        text = clean(text) if self.clean else text
        if self.drop_words and rng.random() < 0.5:
            text = _drop_words(text, self.drop_words, rng)
        return text

    def _filled(self, texts: Sequence[str]) -> list[str]:
        """Those of which something is left."""
        # Cleaning never removes a letter at the beginning: almost no text has to be cleaned to know.
        return [text for text in texts if text[:1].isalnum() or (clean(text) if self.clean else text.strip())]

    def _options(self, example: Mapping[str, Any], blank: bool = False) -> list[tuple[str, list[str]]]:
        """The forms that this example has, each with its languages; with `blank`, blank texts count, too."""
        keep = list if blank else self._filled
        texts, labels, tags = example.get("texts"), example.get("labels") or {}, example.get("tags") or {}
        labelled = [name for name in self.languages if name in labels and keep([labels[name]])]
        tagged = [name for name in self.languages if keep(tags.get(name) or ())]
        both = [name for name in labelled if name in tagged]
        have = {"label": labelled, "prompt": labelled, "tags": tagged, "label_tags": both}
        options: list[tuple[str, list[str]]] = []
        for form in self.forms:
            if form in ("first", "text"):
                if keep(texts or ()):
                    options.append((form, []))
            elif have[form]:
                options.append((form, have[form]))
        return options

    def _make(self, example: Mapping[str, Any], form: str, languages: list[str], rng: np.random.Generator) -> str:
        if form in ("first", "text"):
            texts = self._filled(example["texts"])
            return texts[0 if form == "first" else _below(len(texts), rng)]
        language = languages[_below(len(languages), rng)]
        if form == "label":
            return example["labels"][language]
        if form == "prompt":
            templates = [one for name in self.templates for one in TEMPLATES.get(name, (name,))]
            return templates[_below(len(templates), rng)].replace("{}", example["labels"][language])
        tags = self._filled(example["tags"][language])
        count = 1 + _below(min(self.max_tags, len(tags)), rng)
        words = [tags[i] for i in rng.permutation(len(tags))[:count]]
        return ", ".join([example["labels"][language], *words] if form == "label_tags" else words)


def _drop_words(text: str, share: float, rng: np.random.Generator) -> str:
    """The text without some of its words; one at least stays."""
    words = text.split()
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= share]
    return " ".join(kept or words[_below(len(words), rng) :][:1])


def _below(n: int, rng: np.random.Generator) -> int:
    """A whole number in 0 … n - 1 (`Generator.integers` takes four times as long for one number)."""
    return int(n * rng.random())


def _weighted(weights: list[float], rng: np.random.Generator) -> int:
    point = rng.random() * sum(weights)
    for i, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return i
    return len(weights) - 1


def from_config(config: Mapping[str, Any]) -> TextChoice:
    """A `TextChoice` from a mapping of its fields.

    Raises:
      UserError: an unknown key or value.

    Example:
      >>> from_config(dict(forms=dict(label=1, prompt=2))).forms
      {'label': 1.0, 'prompt': 2.0}
    """
    fields = [field.name for field in dataclasses.fields(TextChoice)]
    for name in config:
        choose("key of the text transform", name, fields)
    return TextChoice(**config)
