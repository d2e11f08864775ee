"""Put the files of others that the pages of the service want into the package, with their licences beside them.

`make web` calls it after `npm ci` in the folder web/. Git has none of these files; the wheel has all of them, and
`make build` builds none without them: `python scripts/web_files.py --check` says what is missing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ROOT / "web" / "node_modules"
VENDOR = ROOT / "src" / "tunesmith" / "service" / "web" / "static" / "vendor"
FILES = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/LICENSE": "htmx.LICENSE.txt",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "uplot/LICENSE": "uPlot.LICENSE.txt",
}


def check() -> int:
    """Say which files are not in the package; 1 when there are any."""
    missing = [target for target in FILES.values() if not (VENDOR / target).is_file()]
    if missing:
        print(f"error: not in the package: {', '.join(missing)}; run `make web` first", file=sys.stderr)
    return 1 if missing else 0


def main() -> int:
    """Copy the files; 1 when one of them is not there."""
    missing = [name for name in FILES if not (MODULES / name).is_file()]
    if missing:
        print(f"error: not in {MODULES}: {', '.join(missing)}; run `npm ci` in the folder web/ first", file=sys.stderr)
        return 1
    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir(parents=True)
    for name, target in FILES.items():
        shutil.copyfile(MODULES / name, VENDOR / target)
    print(f"{len(FILES)} files in {VENDOR.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["--check"] else main())
