"""How the published models write conversations: templates as data, by name.

A template's texts hold fields, `{system}`, `{signal}`, `{question}`, `{answer}`, and special tokens by their spelling.
Where a user's own words spell a special token, they stay plain text.

Sources: LLaVA `conversation.py` and the label rules of `train.py` (commit c121f043); LLaVA-NeXT `conversation.py`.
"""

import dataclasses

from mmjax.data.choices import choose


@dataclasses.dataclass(frozen=True)
class Template:
    """One way to write a conversation.

    Attributes:
      first, then: before the first and before every later answer; nothing of it is learned but `signal`.
      cue: what calls for the answer: a prompt for generation ends with it.
      answer: the answer and its end, which are learned.
      last: after the last answer, learned (v0's stop signal).
      system: the system text, where the conversation has none of its own.
      system_form: how a system text that is not empty is written; `{}` is the text.
      signal: what of `first` and `then` is learned, too (v0: that a turn of the assistant is over).
      cue_learned: whether `cue` is learned (v0).
      specials: tokens of the tokenizer that stand in the texts above.
      bos: whether a row begins with the tokenizer's begin token.
      only_image: of a question its picture is all that stays (stage 1).
    """

    first: str
    then: str
    cue: str
    answer: str
    last: str = ""
    system: str = ""
    system_form: str = "{}"
    signal: str = ""
    cue_learned: bool = False
    specials: tuple[str, ...] = ()
    bos: bool = True
    only_image: bool = False


_POLITE = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
_LLAVA_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


def _v1(system: str) -> Template:
    ask = "USER: {question}"
    return Template(
        "{system}" + ask, ask, " ASSISTANT:", " {answer}</s>", system=system, system_form="{} ", specials=("</s>",)
    )


def _inst(system: str, between: str) -> Template:
    return Template(
        "[INST] {system}{question}",
        between + "[INST] {question}",
        " [/INST]",
        " {answer} </s>",
        system=system,
        system_form="<<SYS>>\n{}\n<</SYS>>\n\n",
        specials=("<s>", "</s>"),
    )


def _chatml(system: str, end: str) -> Template:
    ask = "<|im_start|>user\n{question}" + end
    return Template(
        "{system}" + ask,
        ask,
        "<|im_start|>assistant\n",
        "{answer}" + end,
        system=system,
        system_form="<|im_start|>system\n{}" + end,
        specials=("<|im_start|>", "<|im_end|>"),
    )


def _llama_3(system: str) -> Template:
    def turn(role: str, text: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"

    return Template(
        "{system}" + turn("user", "{question}"),
        turn("user", "{question}"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{answer}<|eot_id|>",
        system=system,
        system_form=turn("system", "{}"),
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    )


TEMPLATES: dict[str, Template] = {
    # LLaVA's first: a turn of the assistant is learned whole, and of the user's the mark that ends it.
    "v0": Template(
        "{system}{signal} Human: {question}\n",
        "{signal} Human: {question}\n",
        "### Assistant:",
        " {answer}\n",
        last="### ",
        system="A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions.",
        system_form="{}\n\n",
        signal="###",
        cue_learned=True,
    ),
    "v1": _v1(_POLITE.format("user")),
    "vicuna_v1": _v1(_POLITE.format("user")),
    "llava_v1": _v1(_POLITE.format("human")),
    "llama_2": _inst(_LLAMA_2, "<s>"),
    "llava_llama_2": _inst(_LLAVA_LLAMA_2, "<s>"),
    "mistral_instruct": _inst("", ""),
    "chatml_direct": _chatml("Answer the questions.", "<|im_end|>"),  # LLaVA-NeXT on Yi-34B: no line break at the end
    "chatml": dataclasses.replace(_chatml("You are a helpful assistant.", "<|im_end|>\n"), bos=False),
    "llava_llama_3": _llama_3(_LLAVA_LLAMA_2),
    "plain": Template("{question}", "{question}", "", "{answer}\n", only_image=True),  # stage 1: captions
}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
      UserError: there is none.
    """
    return TEMPLATES[choose("chat template", name, TEMPLATES)]
