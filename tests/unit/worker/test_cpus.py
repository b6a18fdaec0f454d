"""Which CPUs a worker runs on."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from headrace_worker import cpus
from headrace_worker.cpus import CpuBindingError, bind_to, cpu_list
from headrace_worker.settings import WorkerSettings

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to CPUs")


@pytest.fixture
def bound(monkeypatch):
    """What would be bound, on a machine whose CPUs 0 to 7 and 10 may be used."""
    found: list[frozenset[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8), 10})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, wanted: found.append(frozenset(wanted)))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11}), ("3,3-4", {3, 4})],
)
def test_a_list_of_cpus_is_read_as_linux_writes_it(text, expected):
    assert cpu_list(text) == expected


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "0,,1", "0 1", "0-1-2", "1,", "999999", "3-1"])
def test_what_is_no_list_of_cpus_is_refused_by_name(text):
    with pytest.raises(ValidationError, match="cpu_affinity"):
        WorkerSettings(model="m", cpu_affinity=text)


def test_processes_of_a_split_model_are_not_put_on_one_node_by_themselves():
    with pytest.raises(ValidationError, match="cpu_affinity: auto"):
        WorkerSettings(model="m", cpu_affinity="auto", tensor_parallel_size=2)
    assert WorkerSettings(model="m", cpu_affinity="0-3", tensor_parallel_size=2).cpu_affinity == "0-3"


def test_a_process_is_bound_to_the_cpus_of_a_list(bound):
    assert bind_to("2-4,10") == {2, 3, 4, 10}
    assert bound == [{2, 3, 4, 10}]


def test_a_cpu_that_may_not_be_used_is_told_with_those_that_may(bound):
    with pytest.raises(CpuBindingError, match="CPU 8, 9 cannot be used by this process, only 0-7,10"):
        bind_to("6-10")
    assert bound == []


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({"node0": "0-3", "node1": "4-7,10"}, {4, 5, 6, 7, 10}),
        ({"node0": "0-3", "node1": "4-7", "node2": ""}, {0, 1, 2, 3}),
        ({"node10": "2-3", "node9": "0-1"}, {0, 1}),
        ({"node0": "8-9,11-40", "node1": "0"}, {0}),
        ({}, {*range(8), 10}),
    ],
)
def test_auto_is_the_numa_node_with_most_cpus_that_may_be_used(nodes, expected, bound, tmp_path, monkeypatch):
    for name, listed in nodes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(listed + "\n")
    monkeypatch.setattr(cpus, "_NODES", tmp_path)
    assert bind_to("auto") == expected


def test_all_threads_of_a_bound_process_and_its_children_stay_on_its_cpus_and_it_counts_its_cores_by_them():
    """A process of its own: this one's other tests need all CPUs."""
    cpu = max(os.sched_getaffinity(0))
    program = f"""
import os, subprocess, sys, threading
from headrace_worker.cpus import bind_to
from headrace_worker.execute.threads import usable_cores
bind_to("{cpu}")
import torch
torch.set_num_threads(3)
torch.randn(400, 400) @ torch.randn(400, 400)
lists = {{os.sched_getaffinity(int(thread)).__repr__() for thread in os.listdir("/proc/self/task")}}
child = subprocess.run([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], capture_output=True, text=True)
print(len(os.listdir("/proc/self/task")) > 1, lists == {{"{{{cpu}}}"}}, child.stdout.strip() == "{{{cpu}}}", usable_cores())
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True", "1"]
