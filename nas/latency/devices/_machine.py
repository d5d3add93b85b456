"""What this machine is, for a table's provenance."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nas.errors import DeviceError


def machine() -> dict[str, str | int]:
    """CPU, cores, operating system and Python."""
    return {
        "hardware": cpu_model(),
        "cores": _cores(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages by name; "unknown" for what runs from a folder without metadata."""
    return {package: _version(package) for package in packages}


def require_threads(threads: object) -> int | None:
    """A number of threads as it is, None included.

    Raises:
        DeviceError: it is no whole number of at least 1.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise DeviceError(f"threads is {threads!r}; it must be a whole number of at least 1")
    return threads


def cpu_model() -> str:
    """The CPU's name as its maker writes it, as far as the system tells."""
    return _from_proc() or _from_sysctl() or platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    # The cores this process may use, which in a container are fewer than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_proc() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _from_sysctl() -> str | None:
    if platform.system() != "Darwin":
        return None
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
