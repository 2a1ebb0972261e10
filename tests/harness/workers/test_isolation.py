"""Workers: what goes wrong in one is told to the parent and ends there."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench import registry
from attnbench.harness.workers import deaths
from attnbench.harness.workers.isolation import Worker, WorkerDied, WorkerError

CHILD = '''
import ctypes, os, resource, signal, sys, time
import torch
from attnbench import registry


class Child:
    """Does what it is told, however bad."""

    def __init__(self, count=0):
        if count < 0:
            raise ValueError("count is negative\\nmore")
        self.count = count

    def add(self, number):
        self.count += number
        return self.count

    def pid(self):
        return os.getpid()

    def threads(self):
        return torch.get_num_threads()

    def talk(self):
        os.system("echo from a grandchild")
        print("to stdout")
        print("to stderr", file=sys.stderr)

    def names(self):
        return registry.names()

    def segfault(self):
        ctypes.string_at(0)

    def hang(self):
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock

    def leave(self):
        print("I have had enough", flush=True)
        os._exit(3)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def abort(self):
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
        os.abort()

    def allocate(self):
        limit = 512 * 2**20 + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return torch.empty(2**33).shape

    def lambdas(self):
        return lambda: 1
'''


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    (tmp_path / "attnbench_test_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "attnbench_test_child", raising=False)
    return importlib.import_module("attnbench_test_child").Child


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(pid)


def test_calls_reach_one_object_in_another_process(child: Callable[..., object]) -> None:
    with Worker(child, 40, time_limit_s=60) as worker:
        assert worker.call("pid") == worker.pid != os.getpid()
        assert [worker.call("add", 1), worker.call("add", 1)] == [41, 42]
    assert gone_within(worker.pid or 0, 5)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_that_waits_is_stopped_goes_on_when_called_and_can_be_ended(
    child: Callable[..., object],
) -> None:
    worker = Worker(child, 40, time_limit_s=60)
    pid = worker.call("pid")
    for _ in range(3):
        worker.pause()
        deadline = time.monotonic() + 30
        while state(pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(pid) == "T"  # all its threads, whatever they did
        assert worker.call("add", 1) > 40
        assert state(pid) != "T"
    worker.pause()
    worker.close()
    assert gone_within(pid, 30)


def test_an_exception_is_told_and_the_worker_stays(child: Callable[..., object]) -> None:
    with Worker(child, time_limit_s=60) as worker:
        with pytest.raises(WorkerError, match=r"^TypeError: .*int.*str") as caught:
            worker.call("add", "x")
        assert caught.value.status == "failed"
        with pytest.raises(WorkerError, match=r"^AttributeError: "):
            worker.call("no_such_method")
        with pytest.raises(WorkerError, match="pickle"):
            worker.call("lambdas")
        assert worker.call("add", 1) == 1
    with pytest.raises(WorkerError, match=r"^ValueError: count is negative$"):
        Worker(child, -1, time_limit_s=60)


DEATHS = {
    "segfault": ("crashed", r"^segmentation fault \(SIGSEGV\) at attnbench_test_child.py:\d+, in segfault$"),
    "leave": ("crashed", "^the process ended with status 3: I have had enough$"),
    "kill": ("crashed", "^the process was killed"),
    "abort": ("out_of_memory", "^out of memory"),
}


@pytest.mark.parametrize("method", DEATHS)
def test_a_death_is_told_with_its_reason(child: Callable[..., object], method: str) -> None:
    status, reason = DEATHS[method]
    worker = Worker(child, time_limit_s=60)
    with pytest.raises(WorkerDied, match=reason) as caught:
        worker.call(method)
    assert caught.value.status == status
    assert not worker.alive
    with pytest.raises(WorkerDied, match="its process has ended"):
        worker.call("pid")
    worker.close()


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_apart(
    child: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 3\n")
    monkeypatch.setattr(deaths, "_VMSTAT", tmp_path / "vmstat")
    worker = Worker(child, time_limit_s=60)
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 4\n")
    with pytest.raises(WorkerDied, match="out of memory") as caught:
        worker.call("kill")
    assert caught.value.status == "out_of_memory"


def test_an_allocation_that_fails_is_told_as_out_of_memory(child: Callable[..., object]) -> None:
    with Worker(child, time_limit_s=60) as worker, pytest.raises(WorkerError) as caught:
        worker.call("allocate")
    assert caught.value.status == "out_of_memory"


def test_a_hang_ends_at_the_time_limit(child: Callable[..., object]) -> None:
    worker = Worker(child, time_limit_s=60)
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=r"no answer within 0\.5 s") as caught:
        worker.call("hang", time_limit_s=0.5)
    assert time.monotonic() - began < 60  # it would hang for ever
    assert caught.value.status == "timed_out"
    assert gone_within(worker.pid or 0, 5)


def test_what_a_worker_prints_stays_there(child: Callable[..., object], capfd: pytest.CaptureFixture) -> None:
    with Worker(child, time_limit_s=60) as worker:
        worker.call("talk")
    assert capfd.readouterr() == ("", "")


def test_a_worker_runs_on_as_many_threads(child: Callable[..., object]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with Worker(child, time_limit_s=60) as worker:
                assert worker.call("threads") == threads
    finally:
        torch.set_num_threads(before)


def test_plugins_and_mechanisms_registered_in_memory_reach_a_worker(
    child: Callable[..., object], tmp_path: Path, isolated_registry: object
) -> None:
    body = "from attnbench import register_mechanism\n@register_mechanism({!r})\nclass M: pass\n"
    (tmp_path / "from_file.py").write_text(body.format("from_file"))
    registry.add_plugin(tmp_path / "from_file.py")
    spec = importlib.util.spec_from_file_location("nowhere.in_memory", tmp_path / "in_memory.py")
    assert spec
    assert spec.loader
    (tmp_path / "in_memory.py").write_text(body.format("in_memory"))
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    with Worker(child, time_limit_s=60) as worker:
        assert {"from_file", "in_memory", "full"} <= set(worker.call("names"))


def test_a_start_costs_a_fraction_of_importing_torch(child: Callable[..., object]) -> None:
    Worker(child, time_limit_s=60).close()  # the server has been started
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        worker = Worker(child, time_limit_s=60)
        seconds.append(time.monotonic() - began)
        worker.close()
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert min(seconds) < (time.monotonic() - began) / 3


PARENT = """
import sys
import time
sys.path.insert(0, {folder!r})
from attnbench_test_child import Child
from attnbench.harness.workers.isolation import Worker

if __name__ == "__main__":
    with Worker(Child, time_limit_s=600) as worker:
        if {paused}:
            worker.pause()
            print(worker.pid, flush=True)
            time.sleep(600)
        print(worker.pid, flush=True)
        worker.call("hang")
"""


@pytest.mark.parametrize(
    ("how", "paused"),
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, True)],
)
def test_no_orphan_is_left(
    child: Callable[..., object], tmp_path: Path, how: signal.Signals, paused: bool
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(tmp_path), paused=paused))
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    time.sleep(0.1)
    assert running(pid)
    parent.send_signal(how)
    parent.wait(timeout=10)
    parent.stdout.close()
    assert gone_within(pid, 5)
