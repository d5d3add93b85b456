"""How much memory is free where a network lies."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a process may still take on a device, by the machine and its container; None where nobody can say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself and does not use is free too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    return max(0, min([psutil.virtual_memory().available, *container_bytes()]))


def container_bytes(root: Path = Path("/")) -> list[int]:
    """What the control groups of this process leave it, of those that have a limit.

    Both versions (https://docs.kernel.org/admin-guide/cgroup-v2.html), from the process's own group up to the root. A
    file's pages that nobody uses count as free, as they do for the machine.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            left += _up("sys/fs/cgroup", path, names, root)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _up("sys/fs/cgroup/memory", path, names, root)
    return left


def _up(mount: str, path: str, names: tuple[str, str, str], root: Path) -> list[int]:
    top, found = root / mount, []
    # Inside a container its group is mounted as the root, though its path may be told from outside.
    group = top / path.strip("/")
    for folder in [group, *group.parents]:
        if (left := _left(folder, *names)) is not None:
            found.append(left)
        if folder == top:
            break
    return found


def _left(folder: Path, limit: str, used: str, idle: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        taken = int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) - taken + int(statistics.get(idle, 0))
