"""Small tokenizers with chat templates of the usual styles, and of styles that are wrong on purpose.

tokenizer = styled_tokenizer("llama3")     # byte-level or word-mark tokens, as the style's models have them
STYLES                                     # all right ones; FAULTY the others; CALLING those for calls of functions
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from json import dumps, loads
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "system user assistant model: please answer the question in one short sentence.",
    "What is the capital of France? The capital of France is Paris. [INST] [/INST]",
    "The parcel has not arrived and the customer asks where it is.",
]


@dataclass(frozen=True)
class Style:
    """A chat template with the tokens that it needs.

    ``kind`` is bytes, trimmed (bytes whose offsets leave out white space), words (word marks, as SentencePiece models
    have them), first (a word mark before the first text only) or few (words without bytes for unknown characters).
    """

    template: str
    tokens: tuple[str, ...]
    eos: str
    bos: str | None = None
    kind: str = "bytes"
    words: tuple[str, ...] = ()  # added tokens that are not special


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# The system message stands before the last question only, so that the history is rewritten with every turn.
MISTRAL_LAST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{% set last = turns[loop.index0 + 1:] | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ '[INST] ' + (system + '\n\n' if last and system else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson + '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set content = m.content %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ content }}"
    "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

STYLES = {
    "chatml": Style(CHATML, _CHATML_TOKENS, "<|im_end|>"),
    "chatml_trimmed": Style(CHATML, _CHATML_TOKENS, "<|im_end|>", kind="trimmed"),
    "llama3": Style(
        LLAMA3,
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
        "<|end_of_text|>",
        "<|begin_of_text|>",
    ),
    "gemma": Style(GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", kind="words"),
    "phi3": Style(
        PHI3, ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|endoftext|>", kind="words"
    ),
    "mistral": Style(MISTRAL, ("<s>", "</s>"), "</s>", "<s>", kind="words"),
    "mistral_last": Style(MISTRAL_LAST, ("<s>", "</s>"), "</s>", "<s>", kind="words"),
    # A word mark stands before the very first text only, so that a text cannot be encoded in parts.
    "first_mark": Style(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", kind="first"),
    "qwen3": Style(QWEN3, _CHATML_TOKENS, "<|im_end|>", words=("<think>", "</think>", "<tool_call>", "</tool_call>")),
}
FAULTY = {
    # Right, but for a vocabulary that knows no character beyond its corpus.
    "few_characters": Style(CHATML, _CHATML_TOKENS, "<|im_end|>", kind="few"),
    # ChatML with another system message than its twin, to stand for a template that changed.
    "chatml_system": Style("{{ '<|im_start|>system\nHm.<|im_end|>\n' }}" + CHATML, _CHATML_TOKENS, "<|im_end|>"),
    "no_end_of_turn": Style(CHATML.replace("<|im_end|>", ""), _CHATML_TOKENS, "<|endoftext|>"),
    "no_content": Style(
        CHATML.replace("m.content", "('' if m.role == 'assistant' else m.content)"), _CHATML_TOKENS, "<|im_end|>"
    ),
    "no_question": Style(
        CHATML.replace("m.content", "('' if m.role == 'user' else m.content)"), _CHATML_TOKENS, "<|im_end|>"
    ),
    "no_opening": Style(CHATML.partition("{% if add_generation_prompt")[0], _CHATML_TOKENS, "<|im_end|>"),
    "shouting": Style(
        CHATML.replace("m.content", "(m.content | upper if not loop.last else m.content)"),
        _CHATML_TOKENS,
        "<|im_end|>",
    ),
}


# Templates that write calls of functions, each with marks of its own; all are ChatML else.
_CALLS = (
    "{{% if tools %}}{{{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}}}{{% endif %}}"
    "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' + m.content }}}}{{% for c in m.tool_calls or [] %}}"
    "{call}{{% endfor %}}{result}{{{{ '<|im_end|>\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}"
)
_NINE = (
    "{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids have nine letters and digits') }}"
    "{% endif %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}"
)
_RESULT = (
    "{% if m.role == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('ids have nine letters and digits') }}{% endif %}{{ '[' + m.tool_call_id + ']' }}{% endif %}"
)
_TAGS = (
    "{{ '\n<tool_call>\n<function=' + c.function.name + '>\n' }}{% for key, value in c.function.arguments | items %}"
    "{{ '<parameter=' + key + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' }}"
    "{% endfor %}{{ '</function>\n</tool_call>' }}"
)
_XML = "{{ '<call><of>' + c.function.name + '</of>' + c.function.arguments | tojson + '</call>' }}"
CALLING = {
    "nine_letters": Style(
        _CALLS.format(call=_NINE, result=_RESULT), (*_CHATML_TOKENS, "[TOOL_CALLS]", "[ARGS]"), "<|im_end|>"
    ),
    "tags": Style(_CALLS.format(call=_TAGS, result=""), _CHATML_TOKENS, "<|im_end|>"),
    # Nobody's form, which is not read back.
    "unread": Style(_CALLS.format(call=_XML, result=""), _CHATML_TOKENS, "<|im_end|>"),
    # Names are told from arguments by a special token alone, which no answer shows.
    "special_marks": Style(
        _CALLS.format(
            call="{{ '<|call|>the ' + c.function.name + '<|sep|> ' + c.function.arguments | tojson }}", result=""
        ),
        (*_CHATML_TOKENS, "<|call|>", "<|sep|>"),
        "<|im_end|>",
    ),
}


@cache
def styled_tokenizer(name: str) -> Any:
    """The tokenizer of a style, in memory."""
    return make_tokenizer({**STYLES, **FAULTY, **CALLING}[name])


def make_tokenizer(style: Style) -> Any:
    if style.kind in ("words", "first", "few"):
        backend = _words(style.tokens, known_bytes=style.kind != "few")
    else:
        backend = _bytes(style.tokens, style.kind == "trimmed")
    if style.kind == "first":
        backend.normalizer = normalizers.Sequence([])
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.add_tokens(list(style.words))
    if style.bos:
        number = backend.token_to_id(style.bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A", pair=f"{style.bos} $A $B", special_tokens=[(style.bos, number)]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=style.eos,
        bos_token=style.bos,
        additional_special_tokens=[token for token in style.tokens if token not in (style.eos, style.bos)],
        model_max_length=100_000,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = style.template
    return tokenizer


def _bytes(tokens: tuple[str, ...], trimmed: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    # Digits and line breaks apart, as newer byte-level models have it; white space may stand alone as a token.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if trimmed:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


def _words(tokens: tuple[str, ...], *, known_bytes: bool) -> Tokenizer:
    """Word marks put before each text between special tokens, and bytes for characters that are not known."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *tokens, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    vocabulary = backend.get_vocab()
    # Trained with the bytes as special tokens to give them a place; they must not be matched in texts.
    state = loads(backend.to_str())
    state["model"]["byte_fallback"] = known_bytes
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in ("<unk>", *tokens)]
    assert all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    return Tokenizer.from_str(dumps(state))
