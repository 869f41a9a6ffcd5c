"""GGUF files of LLaMA and Mistral: the same model as Hugging Face's layout, every type of block, vocabulary, damage."""

import builtins
import json
import pathlib

import gguf
import jax
import numpy as np
import pytest
import tokenizers

from mmjax import cli, initial, systems
from mmjax.commands import models
from mmjax.core import sharding as shd
from mmjax.core import trees
from mmjax.core.errors import UserError
from mmjax.data.tokenizers import SentencePiece, TokenizerJson
from mmjax.weights import files, gguf_llama, gguf_words, surgery
from mmjax.weights.gguf_file import GGUFTensors
from mmjax.weights.transforms import LINEAR, Pairs
from tests.weights.gguf_files import Q, converted, facts, permuted, write
from tests.weights.test_fuzz import damage

MISTRAL = pathlib.Path(__file__).parents[1] / "golden" / "mistral" / "a"
CONFIG = {"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 2, "intermediate_size": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
          "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"}, "eos_token_id": 2}  # fmt: skip
BLOCKS = (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K)


def hf(folder: pathlib.Path, **changes) -> tuple[dict, dict[str, np.ndarray]]:
    """Writes a random checkpoint of LLaMA; returns its configuration and its tensors."""
    config, rng = {**CONFIG, **changes}, np.random.default_rng(0)
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = config["num_key_value_heads"] * width // config["num_attention_heads"]
    maps = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
            "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner)}  # fmt: skip
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    shapes |= {} if config["tie_word_embeddings"] else {"lm_head.weight": (vocab, width)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}.{name}.weight": shape for name, shape in maps.items()}
        if config.get("attention_bias"):
            shapes |= {f"{at}.{name}.bias": shape[:1] for name, shape in maps.items() if "attn" in name}
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    files.write_json(folder / "config.json", config)
    files.write_safetensors(folder / "model.safetensors", tensors)
    return config, tensors


def of_hf(config: dict, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return converted(tensors, config["num_attention_heads"], config["num_key_value_heads"])


def read(path: pathlib.Path) -> surgery.Loaded:
    return surgery.load(path, models.shapes)


def logits(loaded: surgery.Loaded, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
    model = systems.build({**loaded.system, "dtype": "float32"})
    batch = {"ids": ids, "valid": valid}
    return np.asarray(jax.jit(lambda v: model.apply(v, batch, method="logits"))(loaded.variables))


def assert_same(one: surgery.Loaded, other: surgery.Loaded) -> None:
    assert one.system == other.system
    a, b = trees.flatten(one.variables), trees.flatten(other.variables)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_mistral_gives_its_publishers_logits(tmp_path):
    """Grouped heads and a sliding window, against what transformers computed."""
    config, stored = files.read_json(MISTRAL / "config.json"), files.open_tensors(MISTRAL)
    tensors = {key: stored.read(key) for key in stored.keys()}  # noqa: SIM118
    said = {**facts(config), "attention.sliding_window": config["sliding_window"],
            "attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}  # fmt: skip
    ends = {"tokenizer.ggml.eos_token_id": 2}
    found, theirs = read(write(tmp_path / "m.gguf", said, of_hf(config, tensors), more=ends)), read(MISTRAL)
    assert_same(found, theirs)
    io = files.SafeTensors(MISTRAL / "io.safetensors")
    ids, valid = (io.read(f"logits_right_pad/in/{name}") for name in ("input_ids", "attention_mask"))
    made = logits(found, ids.astype(np.int32), valid.astype(bool))
    np.testing.assert_allclose(made[valid > 0], io.read("logits_right_pad/out/logits")[valid > 0], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, {}),
        ({"tie_word_embeddings": True, "num_key_value_heads": 1, "attention_bias": True}, {}),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        ),
    ],
)
def test_llama_is_the_model_of_its_hugging_face_layout(tmp_path, changes, more):
    config, tensors = hf(tmp_path / "hf", **changes)
    ends = {"tokenizer.ggml.eos_token_id": 2}
    found = read(write(tmp_path / "m.gguf", {**facts(config), **more}, of_hf(config, tensors), more=ends))
    assert_same(found, read(tmp_path / "hf"))
    assert found.origin.layout == "gguf" and found.system["end_ids"] == (2,)


def test_the_rows_of_a_head_are_paired_as_the_converter_pairs_them():
    kernel = np.arange(48.0).reshape(12, 4)
    for heads in (1, 2, 3):
        pairs = Pairs(LINEAR, heads)
        np.testing.assert_array_equal(pairs.to_published((kernel.T,)), permuted(kernel, heads))
        np.testing.assert_array_equal(pairs.to_ours(permuted(kernel, heads))[0], kernel.T)
        assert pairs.published_shape([(4, 12)]) == (12, 4)
    assert permuted(np.arange(4), 1).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("scaling", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 2.0, 6.0, 512)])
def test_the_scaling_of_llama_3_is_read_from_its_divisors(tmp_path, scaling):
    factor, low, high, length = scaling
    config, tensors = hf(tmp_path / "hf", rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    said = {**facts(config), "rope.dimension_count": 64, "attention.key_length": 64, "attention.value_length": 64}
    waves = 2 * np.pi * 5e5 ** (np.arange(0, 64, 2) / 64)
    divisors = []
    for wave in waves:  # as the converter writes it
        if wave < length / high:
            divisors.append(1.0)
        elif wave > length / low:
            divisors.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    path = tmp_path / "m.gguf"
    write(path, said, {**of_hf(config, tensors), gguf_llama.DIVISORS: np.array(divisors, np.float32)})
    found = gguf_llama.config_of(GGUFTensors(path))["rope_parameters"]
    made = [found[key] for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")]
    assert found["rope_type"] == "llama3" and found["rope_theta"] == 5e5
    np.testing.assert_allclose(made, [factor, 1.0, high / low, length / low], rtol=1e-4)  # low is the unit
    write(path, said, {**of_hf(config, tensors), gguf_llama.DIVISORS: np.linspace(1, 9, 32, dtype=np.float32)})
    with pytest.raises(UserError, match=r"m.gguf: rope_freqs.weight are not the divisors of Llama 3.1's scaling"):
        read(path)


@pytest.mark.parametrize("kind", [Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1])
def test_a_model_of_every_kind_is_the_one_of_its_numbers(tmp_path, kind):
    config, tensors = hf(tmp_path / "hf")
    rounded = {}
    for name, array in of_hf(config, tensors).items():
        stored = gguf.quants.quantize(array, kind) if array.ndim > 1 else array
        rounded[name] = gguf.quants.dequantize(stored, kind).reshape(array.shape) if array.ndim > 1 else array
    wanted = read(write(tmp_path / "rounded.gguf", facts(config), rounded))
    found = read(write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), kind))
    assert_same(found, wanted)
    exact = read(tmp_path / "hf").variables["params"]["llm"]
    near = {Q.F16: 1e-3, Q.BF16: 1e-2, Q.Q8_0: 0.02, Q.Q4_0: 0.3, Q.Q4_1: 0.3}[kind]
    kernel, made = (tree["transformer"]["block_1"]["attn"]["q"]["kernel"] for tree in
                    (exact, found.variables["params"]["llm"]))  # fmt: skip
    assert 0 < np.abs(kernel - made).max() < near
    dtype = {Q.F16: "float16", Q.BF16: "bfloat16"}.get(kind)
    assert found.origin.dtypes.get("params/llm/embed/embedding") == dtype


def test_blocks_are_decoded_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    stored = {kind: rng.integers(0, 60, (3, gguf.GGML_QUANT_SIZES[kind][1] * (512 // gguf.GGML_QUANT_SIZES[kind][0])),
                                 np.uint8) for kind in BLOCKS}  # fmt: skip
    path = write(tmp_path / "m.gguf", {}, {}, **{f"a__{kind.name}": (data, kind) for kind, data in stored.items()})
    tensors = GGUFTensors(path)
    assert tensors.keys() == sorted(f"a.{kind.name}" for kind in BLOCKS)
    for kind, data in stored.items():
        found = tensors.read(f"a.{kind.name}")
        assert found.shape == tensors.shape(f"a.{kind.name}") == (3, 512) and found.dtype == np.float32
        np.testing.assert_array_equal(found, gguf.quants.dequantize(data, kind))
        assert np.unique(found).size > 10


def test_a_file_is_converted_and_begins_a_llava(tmp_path, capsys):
    config, tensors = hf(tmp_path / "hf")
    path = write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more={"general.license": "mit"})
    arguments = ["convert", "--input", str(path), "--layout", "hf", "--output"]
    assert cli.main([*arguments, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "m.gguf (gguf): 21 tensors -> 21 parameters" in said and "vocabulary is not read: the file has none" in said
    assert f"licence of weights {path}: mit (general.license of the file)" in said
    back = files.open_tensors(tmp_path / "out")
    for name, array in tensors.items():
        np.testing.assert_array_equal(back.read(name), array)

    system = {"name": "llava", "img": {"image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2},
              "llm": {"vocab": 40, "width": 32, "depth": 2, "heads": 2, "mlp_dim": 64, "kv_heads": 2, "eps": 1e-6,
                      "head_dim": 16}, "dtype": "float32"}  # fmt: skip
    built = systems.build(system)
    mesh = shd.make_mesh({"data": 1}, devices=jax.devices()[:1])
    boxed = jax.eval_shape(lambda b: built.init(jax.random.key(0), b, train=False), built.example(1))
    shardings = {name: shd.param_shardings(tree, mesh) for name, tree in boxed.items()}
    abstract = shd.unbox(boxed)
    zeros = trees.unflatten({at: np.zeros(leaf.shape, np.float32) for at, leaf in trees.flatten(abstract).items()})
    init = [{"path": str(path), "load": ("llm/.*",)}, {"path": "random", "skip": ("llm/.*",)}]
    with shd.use_mesh(mesh):
        made, account = initial.load({"init": init, "system": system, "seed": 0}, abstract, shardings,
                                     lambda: jax.tree.map(jax.device_put, zeros, shardings))  # fmt: skip
    for name, leaf in trees.flatten(read(path).variables["params"]["llm"]).items():
        np.testing.assert_array_equal(trees.flatten(made["params"]["llm"])[name], leaf)
    assert f"from {path} (gguf)" in account


TEXTS = ["a red circle", "two blue squares, left of it", "is it a cat? yes, it is", "one; two; three"] * 3


def vocabulary(kind: str = "llama") -> tuple[SentencePiece, dict]:
    """A vocabulary of merges, and what the converter writes of it."""
    words = SentencePiece.train(TEXTS, 300, model_type="bpe")
    inner = words._processor
    types = [
        2 if inner.is_unknown(i) else 3 if inner.is_control(i) else 6 if inner.is_byte(i) else 1 for i in range(300)
    ]
    pieces = words.pieces()
    said = {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": [piece for piece, _, _ in pieces],
            "tokenizer.ggml.scores": [float(score) for _, score, _ in pieces], "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.eot_token_id": 7}  # fmt: skip
    return words, said


def test_the_vocabulary_gives_the_same_ids(tmp_path):
    words, said = vocabulary()
    config, tensors = hf(tmp_path / "hf", vocab_size=300)
    model = models.load(write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more=said))
    found = models.tokenizer_of(model)
    assert isinstance(found, SentencePiece) and model.system["end_ids"] == (2, 7)
    for text in [*TEXTS[:4], "größer 🟥\n  zwei", "", "  squares  of it "]:
        assert found.encode(text) == words.encode(text) and found.decode(found.encode(text)) == text
        assert found.encode_more(text) == words.encode_more(text)
    assert (found.bos_id, found.eos_id, found.pad_id, found.unk_id) == (1, 2, 0, 3)
    assert found.special("</s>") == 2
    other = models.load(write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more=vocabulary("bert")[1]))
    assert models.tokenizer_of(other) is None
    assert "is not read: it is of the kind 'bert', and readable are 'llama' and 'gpt2'; a tokenizer" in other.account
    doubled = {**said, "tokenizer.ggml.tokens": ["a"] * 300}
    with pytest.raises(UserError, match=r"m.gguf: its vocabulary is damaged: not a SentencePiece model"):
        models.load(write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more=doubled))


@pytest.mark.parametrize("cut", gguf_words.CUTS)
def test_byte_pairs_give_the_same_ids(cut, tmp_path):
    """Against the library's tokenizer with the same steps, trained here, special tokens behind its words."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = {"type": "Sequence", "pretokenizers": gguf_words.CUTS[cut]}
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    whole = {**json.loads(made.to_str()), "pre_tokenizer": steps, "decoder": gguf_words.CUTS["gpt-2"][0]}
    made = tokenizers.Tokenizer.from_str(json.dumps(whole))
    made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet))
    model = json.loads(made.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "<|begin|>", "<|end|>"]
    said = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": cut, "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [3, 3],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
            "tokenizer.ggml.bos_token_id": len(tokens) - 2, "tokenizer.ggml.eos_token_id": len(tokens) - 1,
            "tokenizer.ggml.add_bos_token": cut != "qwen2"}  # fmt: skip
    config, tensors = hf(tmp_path / "hf", vocab_size=len(tokens))
    path = write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more=said)
    found = models.tokenizer_of(models.load(path))
    assert isinstance(found, TokenizerJson)
    for text in [*TEXTS[:4], "it's 12345\n\n  größer 🟥", "", "<|end|>"]:
        assert found.encode(text) == made.encode(text).ids and found.decode(found.encode(text)) == text
    assert found.special("<|end|>") == found.eos_id == len(tokens) - 1
    assert found.bos_id == (None if cut == "qwen2" else len(tokens) - 2)
    other = write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), more={**said, "tokenizer.ggml.pre": "?"})
    assert "it cuts texts in the way '?', and known are gpt-2, smollm, llama-bpe, qwen2" in models.load(other).account


# ---------------------------------------------------------------- mistakes


def changed(folder: pathlib.Path, **changes) -> pathlib.Path:
    config, tensors = hf(folder / "hf")
    said = {key: value for key, value in {**facts(config), **changes}.items() if value is not None}
    return write(folder / "m.gguf", said, of_hf(config, tensors))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block_count": None}, "m.gguf does not say llama.block_count"),
        ({"block_count": 3}, r"missing \(9\):\n    blk.2.attn_norm.weight"),
        ({"attention.head_count": 4, "rope.dimension_count": 8}, r"attn_k.weight is \[32, 32\], expected \[16, 32\]"),
        ({"attention.head_count": [2, 4]}, r"attention.head_count = \[2, 4\]; supported: one size for all blocks"),
        ({"expert_count": 8}, r"m.gguf: not supported: expert_count = 8 \(supported: 0\)"),
        ({"rope.dimension_count": 8}, r"rope.dimension_count = 8 \(supported: 16\)"),
        ({"rope.scaling.type": "yarn"}, r"rope.scaling.type = 'yarn' \(supported: 'none', 'linear'\)"),
        ({"logit_scale": 2.0}, "keys that mmjax does not know: logit_scale"),
    ],
)
def test_what_is_said_must_be_supported(tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        read(changed(tmp_path, **changes))


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    config, tensors = hf(tmp_path / "hf")
    path, stored = tmp_path / "m.gguf", of_hf(config, tensors)

    def says(pattern: str) -> None:
        with pytest.raises(UserError, match=pattern) as caught:
            read(path)
        assert "\n" not in str(caught.value)

    write(path, facts(config), stored, arch="gpt2")
    says("m.gguf holds a model of the architecture 'gpt2'; readable: 'llama', as which LLaMA, Vicuna, Mistral and Yi")
    write(path, facts(config), stored, a__b=(np.zeros((2, 292), np.uint8), Q.Q8_K))
    says("m.gguf: a.b is stored as Q8_K, which gguf cannot decode; it decodes F32, F16, BF16, Q8_0")
    write(path, facts(config), stored, more={"split.count": 3})
    says("m.gguf is one of 3 parts; join them first: llama-gguf-split --merge")
    whole = write(path, facts(config), stored, Q.Q8_0).read_bytes()
    path.write_bytes(whole[:-40])
    says(r"m.gguf \([0-9,]+ bytes\) ends before blk.1.\S+ does: copy or download it again")
    path.write_bytes(whole[:300])
    says(r"m.gguf \(300 bytes\) is damaged: its header names [0-9,]+ bytes where [0-9]+ are left; copy or download")
    path.write_bytes(b"GGML" + whole[4:])
    says("m.gguf .* is no GGUF file: it begins with b'GGML'")
    path.write_bytes(whole[:4] + (9).to_bytes(4, "little") + whole[8:])
    says("m.gguf is a GGUF file of version 9; readable: versions 2 and 3, little-endian")
    path.write_bytes(whole[:4] + (3).to_bytes(4, "big") + whole[8:])
    says("written for machines of the other byte order")
    path.write_bytes(whole)
    (tmp_path / "n.gguf").write_bytes(whole)
    with pytest.raises(UserError, match=r"holds several weight files, name one: m.gguf, n.gguf"):
        read(tmp_path)

    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: _missing(name) if name == "gguf" else real(name, *rest)
    )
    says(r"m.gguf: \S+ is stored in blocks that the package gguf decodes: pip install 'mmjax\[gguf\]'")
    write_plain = write(path, facts(config), stored)
    assert read(write_plain).system["name"] == "language"  # plain numbers do without


def _missing(name: str) -> None:
    raise ImportError(name)


def test_damaged_files_are_refused_or_read(tmp_path):
    """Two hundred files with other bytes: none leads to anything but a line, or to tensors of the shapes that it says.

    The format has no check sums: changed numbers cannot be told.
    """
    config, tensors = hf(tmp_path / "hf", num_hidden_layers=1)
    path = write(tmp_path / "m.gguf", facts(config), of_hf(config, tensors), Q.Q8_0, more=vocabulary()[1])
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    header = 12_000
    assert len(whole) > header
    for number in range(200):
        front = damage(whole[:header], rng)
        path.write_bytes(front + whole[header:] if number % 4 else front)
        try:
            stored = GGUFTensors(path)
            gguf_llama.config_of(stored)
            for key in stored.keys():  # noqa: SIM118
                assert stored.read(key).shape == stored.shape(key)
        except UserError as error:
            assert str(path) in str(error) and len(str(error)) < 2000, number
            refused += 1
    assert refused > 100
