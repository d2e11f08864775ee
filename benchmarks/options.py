"""What the benchmarks over many runs are told on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from benchmarks.workloads import WORKLOADS

# Of the slowest sides these are all: one step is one draw of rows and one disturbance of the machine.
LEAST_COUNTED_STEPS = 3


def read_options(about: str, names: Collection[str], budget: str | None) -> argparse.Namespace:
    """``data_folder``, ``only`` of ``names``, ``budget`` of each run, ``set`` for every run, ``no_keep``.

    ``budget`` is None where each run has one of its own.
    """
    parser = _parser(about)
    parser.add_argument("--only", nargs="*", default=list(names), choices=names)
    parser.add_argument("--budget", default=budget)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more settings for every run")
    return _parsed(parser)


def read_workload_options(
    about: str, ways: Mapping[str, Collection[str]], workloads: Collection[str]
) -> argparse.Namespace:
    """``data_folder``, ``workloads``, what was chosen of each of ``ways``, ``no_keep``."""
    return _parsed(_workload_parser(about, ways, workloads))


def read_step_options(
    about: str, ways: Mapping[str, Collection[str]], workloads: Collection[str], seconds: float
) -> argparse.Namespace:
    """``data_folder``, ``workloads``, what was chosen of each of ``ways``, ``rounds``, ``seconds``,
    ``least_counted_steps``, ``no_keep``."""
    parser = _workload_parser(about, ways, workloads)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=seconds, help="time of one run, once it has begun")
    parser.add_argument(
        "--least-counted-steps",
        type=int,
        default=LEAST_COUNTED_STEPS,
        metavar="N",
        help="steps behind the warm-up that a run takes however long they last",
    )
    return _parsed(parser)


def _workload_parser(
    about: str, ways: Mapping[str, Collection[str]], workloads: Collection[str]
) -> argparse.ArgumentParser:
    parser = _parser(about)
    for name, choices in {"workloads": WORKLOADS, **ways}.items():
        chosen = workloads if name == "workloads" else choices
        parser.add_argument(f"--{name}", nargs="*", default=list(chosen), choices=choices)
    return parser


def _parser(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data-folder", type=Path, default=os.environ.get("TUNESMITH_TEST_DATA"))
    parser.add_argument("--no-keep", action="store_true", help="print only")
    return parser


def _parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    if options.data_folder is None:
        parser.error("name the folder of the data sets: --data-folder or TUNESMITH_TEST_DATA")
    options.data_folder = Path(options.data_folder)
    return options
