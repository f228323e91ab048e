"""Wall time and peak memory of a command, and words for the machine that runs it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click


def backmap_command(*words: str | Path) -> list[str]:
    """``backmap-openmm`` with this interpreter."""
    return [sys.executable, "-m", "openmm_backmap.cli", *map(str, words)]


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory (MB) of one run of ``command``; an error where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{' '.join(command)} failed with status {os.waitstatus_to_exitcode(status)}")
    kilobyte = 1024 if sys.platform != "darwin" else 1
    return time.perf_counter() - start, usage.ru_maxrss * kilobyte / 1e6


def this_machine() -> dict:
    """Processor and number of cores."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), "")
    return {"processor": model or platform.processor() or platform.machine(), "cores": os.cpu_count()}
