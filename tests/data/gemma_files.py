"""A small vocabulary of Gemma's form, trained here, in a folder as SigLIP 2's checkpoints hold it."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
# What Google's tokenizer_config.json says, but for the list of added tokens.
CONFIG: dict[str, Any] = {
    "add_bos_token": False,
    "add_eos_token": True,
    "bos_token": "<bos>",
    "do_lower_case": True,
    "eos_token": "<eos>",
    "model_input_names": ["input_ids"],
    "pad_token": "<pad>",
    "padding_side": "right",
    "processor_class": "SiglipProcessor",
    "tokenizer_class": "GemmaTokenizer",
    "unk_token": "<unk>",
}


def write(folder: pathlib.Path, texts: Sequence[str], size: int = 330, **config: Any) -> pathlib.Path:
    """Trains on texts, and writes both files; `config` replaces what the second one says (None: says nothing)."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIALS, *octets]))
    made.post_processor = processors.TemplateProcessing(
        single="$A:0 <eos>:0", pair="$A:0 <eos>:0 $B:1 <eos>:1", special_tokens=[("<eos>", 1)]
    )
    whole = json.loads(made.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] in SPECIALS]
    # As the library leaves them when a text was padded before saving.
    whole["truncation"] = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
    whole["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    said = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def change(folder: pathlib.Path, **fields: Any) -> pathlib.Path:
    """Replaces fields of the vocabulary's file."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")
    return folder
