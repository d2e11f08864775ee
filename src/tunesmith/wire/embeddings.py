"""Requests and answers of ``/v1/embeddings``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

MOST_INPUTS = 2048


class EmbeddingRequest(BaseModel):
    """The body of a request. ``input`` is a text, the numbers of its tokens, or several of one of these."""

    model_config = ConfigDict(extra="allow")
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def inputs(self) -> list[str | list[int]]:
        """The inputs one by one."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            tokens: Any = self.input
            return [[int(token) for token in tokens]]
        return list(self.input)  # type: ignore[arg-type]


class Embedding(BaseModel):
    """One text's vector, as numbers or as little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
