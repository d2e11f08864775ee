"""A batch's client: asks an engine under its own names, looks whether the batch goes on, and counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import NetworkError
from tunesmith.service.batches.beat import Beat
from tunesmith.service.shared.engines import Engine, Place
from tunesmith.wire.client import InferenceClient
from tunesmith.wire.serving import TENANT_HEADER

_UNAUTHORIZED = 401


class StoppedError(Exception):
    """The batch does not go on now."""


class Asker(InferenceClient):
    """Asks for one batch.

    Args:
        engine: Who answers.
        place: The engine's name of the model.
        beat: Says whether the batch goes on.
        project_id: For whom the engine is asked: projects are served in turn.
    """

    def __init__(self, engine: Engine, place: Place, beat: Beat, project_id: str) -> None:
        super().__init__(engine.address, engine.token, headers={TENANT_HEADER: project_id})
        self.engine = engine
        self._place = place
        self._beat = beat
        self._lock = threading.Lock()
        self._under_way = 0
        self._is_closed = False
        self.refused = 0

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """As :meth:`InferenceClient.post`, with the model as the line names it.

        Raises:
            StoppedError: The batch does not go on.
            NetworkError: The engine did not answer, or another process has got its address.
        """
        if self._beat.why_stop() is not None:
            raise StoppedError
        status, answer = self._asked(path, {**body, "model": self._place.model})
        if status == _UNAUTHORIZED:
            raise NetworkError("another process answers at the engine's address", code="service.no_engine")
        if status == 200:
            return status, {**answer, "model": body["model"]}
        with self._lock:
            self.refused += status != 429
        error = answer.get("error")
        if isinstance(error, dict):
            error = {**error, "message": str(error.get("message")).replace(self._place.model, str(body["model"]))}
        return status, {**answer, "error": error}

    def close(self) -> None:
        """Let go of the connections, once the last answer that is under way has come: nobody waits for that."""
        with self._lock:
            self._is_closed = True
            if self._under_way:
                return
        super().close()

    def _asked(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        with self._lock:
            if self._is_closed:
                raise StoppedError
            self._under_way += 1
        try:
            return super().post(path, body)
        finally:
            with self._lock:
                self._under_way -= 1
                is_last = self._is_closed and not self._under_way
            if is_last:
                super().close()
