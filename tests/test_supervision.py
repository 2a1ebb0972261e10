"""A command that is ended from within, interrupted, or cannot write: one line and a status of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbench import store
from attnbench.errors import AttnbenchError
from attnbench.supervision import ended_by, place_of_crash, time_limit

COMMAND = [sys.executable, "-m", "attnbench"]


def attnbench(*arguments: str, cwd: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


def plugin(folder: Path, line: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import ctypes, os, sys\n{line}\n")
    return str(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("os._exit(0)", "ended with status 0"),
        ("ctypes.string_at(0)", "segmentation fault (SIGSEGV) at mine.py:2"),
        ("os.abort()", "aborted (SIGABRT) at mine.py:2"),
    ],
)
def test_code_that_ends_the_process_is_told(tmp_path: Path, line: str, says: str) -> None:
    ended = attnbench("list", "--plugin", plugin(tmp_path, line), cwd=tmp_path)
    assert ended.returncode == 4
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_exit_at_import_is_a_broken_file(tmp_path: Path) -> None:
    ended = attnbench("list", "--plugin", plugin(tmp_path, "sys.exit(0)"), cwd=tmp_path)
    assert ended.returncode == 0
    assert "its code called exit(0) (mine.py:2)" in ended.stdout


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = attnbench("list", cwd=tmp_path, stdout=full.fileno())
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = attnbench("list", cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert ended.returncode == 141
    assert ended.stderr == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_command_and_what_it_started(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (tmp_path / "mine.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(60)\n")
    running = subprocess.Popen(
        [*COMMAND, "list", "--plugin", "mine.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    running.send_signal(number)
    _, told = running.communicate()
    assert running.returncode == status
    assert "Traceback" not in told


def test_time_limit_ends_what_hangs() -> None:
    with pytest.raises(TimeoutError, match=r"not done within 0\.05 s"), time_limit(0.05):
        time.sleep(60)


def test_a_limit_within_a_limit_leaves_the_outer_on() -> None:
    def hang() -> None:
        with time_limit(60):
            pass
        time.sleep(60)

    with pytest.raises(TimeoutError, match=r"not done within 0\.5 s"), time_limit(0.5):
        hang()


def test_words_for_an_end() -> None:
    assert ended_by(-signal.SIGKILL) == "killed (SIGKILL), perhaps for want of memory"
    assert ended_by(3) == "the process ended with status 3"
    assert place_of_crash("nothing") == ""


def test_only_one_process_measures_into_a_folder(tmp_path: Path) -> None:
    with store.only_writer(tmp_path, "here"):
        message = f"process {os.getpid()} is measuring into"
        with pytest.raises(AttnbenchError, match=message), store.only_writer(tmp_path, "here"):
            pass
        with store.only_writer(tmp_path, "elsewhere"):
            pass
    with store.only_writer(tmp_path, "here"):
        pass


def test_a_fifo_among_the_records_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "some.jsonl")
    told: list[str] = []
    assert store.read(tmp_path, told.append) == []
    assert told == [f"{tmp_path / 'some.jsonl'}: skipped: not a file"]
