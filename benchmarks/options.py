"""What the benchmarks over many runs are told on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from pathlib import Path


def read_options(about: str, names: Collection[str], budget: str) -> argparse.Namespace:
    """``data_folder``, ``only`` of ``names``, ``budget`` of each run, ``set`` for every run, ``no_keep``."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data-folder", type=Path, default=os.environ.get("TUNESMITH_TEST_DATA"))
    parser.add_argument("--only", nargs="*", default=list(names), choices=names)
    parser.add_argument("--budget", default=budget)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more settings for every run")
    parser.add_argument("--no-keep", action="store_true", help="print only")
    options = parser.parse_args()
    if options.data_folder is None:
        parser.error("name the folder of the data sets: --data-folder or TUNESMITH_TEST_DATA")
    options.data_folder = Path(options.data_folder)
    return options
