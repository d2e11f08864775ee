"""Tiny random models and a small tokenizer, made in a moment, for every test that needs a real model.

    tokenizer = tiny_tokenizer(folder)                    # files in folder; vocabulary of 400 tokens, any text
    model = tiny_causal_model("llama", folder, seed=0)    # config and safetensors in the same folder
    folder = tiny_model_folder("llama", folder)           # both
    folder = tiny_encoder_folder(folder)                  # a BertModel, its tokenizer puts [CLS] and [SEP] around texts
    folder = tiny_seq2seq_folder(folder)                  # a T5, its tokenizer ends texts with </s>

A folder made so loads with AutoTokenizer and AutoModelForCausalLM like any model. Weights depend on family and seed
alone. Windows are small (8 tokens) so that a short test text goes past them; soft caps are low enough to matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "phi3", "smollm3")

VOCABULARY_SIZE = 400
CONTEXT_LENGTH = 512
WINDOW = 8
PAD = "<|endoftext|>"  # a name that the Qwen tokenizer classes would otherwise add as one token more
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
DEFAULT_SYSTEM = "You are a small test assistant."

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_CORPUS = [
    "The parcel has not arrived and the customer asks where it is.",
    "What is the capital of France? The capital of France is Paris.",
    "system user assistant: please answer the question in one short sentence.",
    'A label is one of these: {"queue": "billing", "urgency": "high"}.',
    "How many apples are left when three of the seven apples were eaten? Four.",
]


def tiny_tokenizer(folder: Path) -> Any:
    """Write a byte-level BPE tokenizer with a ChatML template into ``folder`` and return it loaded.

    Any UTF-8 text round-trips. Token 0 is the pad, 1 starts a turn, 2 ends it and is the eos; there is no bos and
    nothing is added on encoding. Without a system message the template adds :data:`DEFAULT_SYSTEM`.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        additional_special_tokens=[START_OF_TURN],
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def tiny_config(family: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """The config of a two- to four-layer model of one of :data:`FAMILIES`; ``overrides`` replace config values."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT_LENGTH,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        # Random weights of the usual size would give nearly flat logits, and then no test could tell right from wrong.
        "initializer_range": 0.3,
    }
    windowed = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
    special: dict[str, tuple[type[transformers.PreTrainedConfig], dict[str, Any]]] = {
        "llama": (transformers.LlamaConfig, {}),
        "qwen2": (transformers.Qwen2Config, {"head_dim": None}),
        "qwen3": (transformers.Qwen3Config, {}),
        "gemma": (transformers.GemmaConfig, {}),
        "gemma2": (
            transformers.Gemma2Config,
            {**windowed, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
        ),
        "gemma3_text": (transformers.Gemma3TextConfig, {**windowed, "query_pre_attn_scalar": 8}),
        "mistral": (transformers.MistralConfig, {"sliding_window": WINDOW, "tie_word_embeddings": False}),
        "phi3": (transformers.Phi3Config, {"head_dim": None, "tie_word_embeddings": False}),
        # Not in FAMILIES: packing is not tested for it, so its rows go through one at a time.
        "stablelm": (transformers.StableLmConfig, {"head_dim": None}),
        "smollm3": (transformers.SmolLM3Config, {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}),
    }
    config_class, values = special[family]
    merged = {**common, **values, **overrides}
    wanted = {"bos_token_id", *overrides}
    return config_class(**{key: value for key, value in merged.items() if value is not None or key in wanted})


def tiny_causal_model(family: str, folder: Path, seed: int = 0, **overrides: Any) -> Any:
    """Write a random fp32 model of ``family`` into ``folder`` and return it in eval mode.

    The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=torch.float32)
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return model


def tiny_model_folder(family: str, folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write model and tokenizer into ``folder`` and return it."""
    tiny_tokenizer(folder)
    tiny_causal_model(family, folder, seed, **overrides)
    return folder


def tiny_encoder_folder(folder: Path, seed: int = 0, family: str = "bert", **overrides: Any) -> Path:
    """Write a random encoder without a head (``bert``, ``distilbert``) and its tokenizer into ``folder``."""
    small = {
        "bert": (
            transformers.BertConfig,
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "type_vocab_size": 2,
            },
        ),
        "distilbert": (transformers.DistilBertConfig, {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}),
    }
    config_class, values = small[family]
    common = {
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    _plain_tokenizer(folder, "[CLS]", "[SEP]", "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _write_model(transformers.AutoModel, config_class(**{**common, **values, **overrides}), folder, seed)


def tiny_seq2seq_folder(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a random T5 and its tokenizer into ``folder``."""
    values = {
        "vocab_size": VOCABULARY_SIZE,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
    }
    _plain_tokenizer(folder, "<s>", "</s>", "$A </s>", "$A </s> $B </s>")
    config = transformers.T5Config(**{**values, **overrides})
    return _write_model(transformers.AutoModelForSeq2SeqLM, config, folder, seed)


def _write_model(auto: Any, config: Any, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32)
    model.eval().save_pretrained(folder)
    return folder


def _plain_tokenizer(folder: Path, first: str, last: str, single: str, pair: str) -> None:
    """A byte-level tokenizer without a chat template that puts special tokens around texts: 1 first, 2 last."""
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<pad>", first, last],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(_CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(first, 1), (last, 2)]
    )
    encoder = first == "[CLS]"
    names = {"cls_token": first, "sep_token": last} if encoder else {"bos_token": first, "eos_token": last}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        **names,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
