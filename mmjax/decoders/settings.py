"""How text is generated, as data: a hashable object, so that each setting is compiled once."""

import dataclasses

from mmjax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Greedy unless told.

    Lengths count tokens, the prompt's and the begin token's included, in each row for itself.

    Attributes:
      max_length: where a text ends at last; None: by `max_new` alone.
      max_new: tokens at most after the prompt; None: by `max_length` alone.
      min_length, min_new: no end token before the text has so many.
      sample: draw tokens with their probabilities, instead of the most likely one.
      temperature, top_k, top_p: of sampling; logits are divided by the temperature, then the k most likely tokens are
        kept (0: all), then the most likely ones whose probabilities add up to top_p (nucleus: Holtzman et al. 2020).
      repetition_penalty: above 1, tokens that the text holds become less likely: their logit is divided by it where it
        is positive, else multiplied (Keskar et al. 2019).
      beams: >1 is beam search, which does not sample.
      length_penalty: scores of beams are sums of log probabilities over (new tokens)^length_penalty.
      early_stopping: False: a row ends when its best running beam, at its present length, scores below every finished
        one; True: as soon as `beams` texts are finished; "never": when no running beam can improve any more, at
        whatever length.
      best: texts returned for each row, the best first (beams), or drawn independently (sampling).
      end_ids: tokens that end a text; (): the system's own.

    Raises:
      UserError: values that do not exist or fit together.

    Example:
      >>> Settings(beams=3, max_length=20, min_length=5).best
      1
    """

    max_length: int | None = None
    max_new: int | None = None
    min_length: int = 0
    min_new: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    best: int = 1
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_length is None and self.max_new is None:
            raise UserError("generation: max_length and max_new are both unset; one has to say where a text ends")
        least = {"max_length": 1, "max_new": 1, "min_length": 0, "min_new": 0, "top_k": 0, "beams": 1, "best": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise UserError(f"generation: {name} = {value!r}; valid: a whole number, at least {low}")
        if not self.temperature > 0 or not self.repetition_penalty > 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"generation: temperature={self.temperature}, repetition_penalty={self.repetition_penalty}, "
                f"top_p={self.top_p}; valid: above 0, and top_p up to 1"
            )
        if self.early_stopping not in (True, False, "never"):
            raise UserError(f"generation: early_stopping={self.early_stopping!r}; valid: True, False, 'never'")
        if self.beams > 1 and self.sample:
            raise UserError(
                f"generation: beam search ({self.beams} beams) does not sample; set beams=1 or sample=False"
            )
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise UserError("generation: temperature, top_k and top_p are for sampling; set sample=True")
        if self.best > self.beams and not self.sample:
            raise UserError(f"generation: best={self.best} texts of {self.beams} beams; more beams, or sample=True")

    def length(self, prompt: int) -> int:
        """Tokens of a row at most, for a prompt of so many."""
        ends = [end for end in (self.max_length, None if self.max_new is None else prompt + self.max_new) if end]
        return min(ends)
