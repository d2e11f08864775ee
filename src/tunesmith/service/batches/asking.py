"""A batch's client: asks an engine under its own names, looks whether the batch goes on, and counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tunesmith.service.batches.beat import Beat
from tunesmith.service.shared.engines import Engine, Place
from tunesmith.wire.client import InferenceClient


class StoppedError(Exception):
    """The batch does not go on now."""


class Asker(InferenceClient):
    """Asks for one batch.

    Args:
        engine: Who answers.
        place: The engine's name of the model.
        beat: Says whether the batch goes on.
    """

    def __init__(self, engine: Engine, place: Place, beat: Beat) -> None:
        super().__init__(engine.address, engine.token)
        self.engine = engine
        self._place = place
        self._beat = beat
        self._lock = threading.Lock()
        self.refused = 0

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """As :meth:`InferenceClient.post`, with the model as the line names it.

        Raises:
            StoppedError: The batch does not go on.
        """
        if self._beat.why_stop() is not None:
            raise StoppedError
        status, answer = super().post(path, {**body, "model": self._place.model})
        if status == 200:
            return status, {**answer, "model": body["model"]}
        with self._lock:
            self.refused += status != 429
        error = answer.get("error")
        if isinstance(error, dict):
            error = {**error, "message": str(error.get("message")).replace(self._place.model, str(body["model"]))}
        return status, {**answer, "error": error}
