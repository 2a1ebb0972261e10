"""A real SLURM of one node, for tests: Debian's slurm-wlm and munge, all in one folder, ended afterwards."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")


def why_not() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if absent:
        return f"no SLURM here: {', '.join(absent)} not found (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Start the daemons, and point SLURM_CONF at them; stop those three, by their process ids, at the end."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    munge, node = folder / "munge", socket.gethostname().split(".")[0]
    (munge / "key").write_bytes(secrets.token_bytes(1024))
    (munge / "key").chmod(0o400)
    munge.chmod(0o711)
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(folder=folder, node=node, cores=os.cpu_count(), first=_port(), second=_port())
    )
    os.environ["SLURM_CONF"] = str(conf)
    try:
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        _start("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))
        _start("slurmctld", "-f", str(conf))
        _start("slurmd", "-f", str(conf))
        _until_idle()
        yield
    finally:
        del os.environ["SLURM_CONF"]
        for pid in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            if (folder / pid).exists():
                os.kill(int((folder / pid).read_text()), 15)


def _start(name: str, *arguments: str) -> None:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or name
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stderr}"


def _until_idle(seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip()
        if state == "idle":
            return
        time.sleep(0.2)
    raise TimeoutError(f"the node is {state or 'not there'}, not idle, after {seconds:.0f} s")


def _port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


_CONF = """\
ClusterName=one
SlurmctldHost={node}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmctldPort={first}
SlurmdPort={second}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
JobRequeue=1
KillWait=2
NodeName={node} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
