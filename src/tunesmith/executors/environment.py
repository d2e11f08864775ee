"""What a compute process of this machine is told before it starts: how memory is kept, and how many threads to use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

# Activations come and go in blocks of megabytes; glibc would hand each back to the system and ask for it anew. Keeping
# them was measured to shorten steps on two cores (docs/performance.md). Other C libraries pass over these names.
ALLOCATOR = {
    "MALLOC_TOP_PAD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
}
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_CPU_LIMIT_OF_OLD = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def compute_environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that computes: that of this one, and what it does not say itself.

    A container that may use two of a machine's sixty cores would else get a thread for each of them, and they would
    wait for one another.
    """
    given = os.environ if given is None else given
    limit = core_limit()
    threads = {} if limit is None else {"OMP_NUM_THREADS": str(limit)}
    return {**ALLOCATOR, **threads, **given}


def core_limit(now: Path = _CPU_LIMIT, of_old: tuple[Path, Path] = _CPU_LIMIT_OF_OLD) -> int | None:
    """How many cores the control group of this process may keep busy, at least 1; None where it has no limit."""
    try:
        quota, period = now.read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = (path.read_text("ascii").strip() for path in of_old)
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    cores = max(1, math.ceil(int(quota) / int(period)))
    return cores if cores < (os.cpu_count() or cores + 1) else None
