from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from nas.latency.devices import get_device, keep_freed_memory

resource = pytest.importorskip("resource", reason="the system counts page faults otherwise")
IN_GLIBC = platform.libc_ver()[0] == "glibc"

# Page faults of ten times 64 MiB, written and freed, after the first few: the heap may hold a place for them that was
# never written to.
PROGRAM = """
import resource, torch
from nas.latency.devices import get_device, keep_freed_memory
{before}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(2**24), torch.ones(2**24)
for _ in range(3):
    torch.ones(2**24)
before = faults()
for _ in range(10):
    torch.ones(2**24)
print(faults() - before)
"""
PAGES = 2**26 // resource.getpagesize()


def faults(before: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    # Huge pages would hide most faults.
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "THP_MEM_ALLOC_ENABLE": "0"}
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.skipif(not IN_GLIBC, reason="malloc is another one")
def test_memory_is_mapped_once_after_torch_cpu_loaded_a_module() -> None:
    load = "get_device('torch-cpu').load(torch.nn.Linear(1, 1), [torch.ones(1)], {}, precision='fp32')"
    assert faults("") > 5 * PAGES
    assert faults("assert keep_freed_memory()") < PAGES
    assert faults(load) < PAGES


def test_says_when_malloc_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory.__wrapped__()


@pytest.mark.skipif(not IN_GLIBC, reason="malloc is another one")
def test_tables_say_so() -> None:
    assert get_device("torch-cpu").provenance()["keeps_freed_memory"] is True
