"""The exact bytes of single tokens, which may be parts of a character."""

from __future__ import annotations

import threading
from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer

from tunesmith.inference.requests import ScoredToken, TokenScore
from tunesmith.wire.chat import ChosenLogprob, TokenLogprob


class TokenTexts:
    """Texts of one tokenizer's tokens; reading its vocabulary takes a second, so that is done once and when needed."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._read: LLTokenizer | None = None
        self._lock = threading.Lock()

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for; of a special token its name."""
        with self._lock:
            if self._read is None:
                self._read = from_tokenizer(self._tokenizer)
            raw = bytes(self._read.decode_bytes([token_id]))
        # The library marks special tokens by a byte that no text has.
        return raw.removeprefix(b"\xff")

    def text_of(self, token_id: int) -> str:
        """The same as text; bytes that are no whole character are shown as OpenAI shows them."""
        raw = self.bytes_of(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chosen(self, scored: ScoredToken) -> ChosenLogprob:
        """A chosen token and those in its place, for an answer of the chat path."""
        likeliest = [self._logprob(one) for one in scored.likeliest]
        return ChosenLogprob(**self._logprob(scored.chosen).model_dump(), top_logprobs=likeliest)

    def _logprob(self, score: TokenScore) -> TokenLogprob:
        token = self.text_of(score.token_id)
        return TokenLogprob(token=token, logprob=score.logprob, bytes=list(self.bytes_of(score.token_id)))
