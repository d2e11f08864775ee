"""Batched text generation with a key/value cache and a shared prompt prefix; serves evaluation and inference."""

from tunesmith.generation.decoding import Decoding, Generation, TokenPiece
from tunesmith.generation.loop import generate, shares_prefix, stream

__all__ = ["Decoding", "Generation", "TokenPiece", "generate", "shares_prefix", "stream"]
