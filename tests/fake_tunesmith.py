"""The command ``tunesmith`` with the fake worker in the place of the real one."""

from __future__ import annotations

import fake_worker

from tunesmith.cli.main import main
from tunesmith.executors.local import worker as local

if __name__ == "__main__":
    local.WORKER_COMMAND = fake_worker.COMMAND
    main()
