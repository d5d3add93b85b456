import subprocess
import sys
import time

import pytest

from nas.latency._neighbours import Neighbours, warn_if_disturbed


def work_for(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_own_work_does_not_count():
    # Whatever else runs here: the core that this process keeps busy is not among the others'.
    resting = Neighbours()
    time.sleep(1.0)
    before = resting.busy_cores()
    working = Neighbours()
    work_for(1.0)
    assert working.busy_cores() < before + 0.7


def test_the_work_of_another_program_counts():
    code = "import time; end = time.time() + 30\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as program:
        try:
            neighbours = Neighbours()
            time.sleep(1.0)
            found = neighbours.busy_cores()
        finally:
            program.kill()
    assert found > 0.2


@pytest.mark.parametrize(("busy", "warns"), [(0.0, False), (0.05, False), (0.5, True)])
def test_people_are_warned_when_others_work(capsys, busy, warns):
    warn_if_disturbed(busy, cores=2)
    assert ("measure again" in capsys.readouterr().err) is warns


def test_a_table_says_how_busy_the_machine_was(fake_table):
    assert fake_table.provenance["other_work_cores"] >= 0


def test_what_is_done_before_anything_is_timed_does_not_count(monkeypatch):
    clocks = [0.0, 0.0, 0.0]
    monkeypatch.setattr("nas.latency._neighbours._clocks", lambda: tuple(clocks))
    neighbours = Neighbours()
    with neighbours.not_counting():
        clocks[:] = [60.0, 110.0, 10.0]  # compilers, in processes of their own
    clocks[:] = [70.0, 121.0, 20.0]
    assert neighbours.busy_cores() == pytest.approx(0.1)
