"""A real Slurm of one node on this machine, as root, from the system's packages (slurm-wlm)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import free_ports

_CONF = """
ClusterName=quarry
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_no_slurm() -> str | None:
    """Why no Slurm can be started here, or None."""
    if os.geteuid() != 0:
        return "a Slurm of our own needs root"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    return f"no {', '.join(missing)} (the package slurm-wlm)" if missing else None


@contextmanager
def slurm(folder: Path, timeout_s: float = 60.0) -> Iterator[dict[str, str]]:
    """Start controller and node; yields the environment in which `sbatch` finds them."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(_CONF.format(host=host, ports=free_ports(2), folder=folder))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    running = []
    try:
        for daemon in ("slurmctld", "slurmd"):
            with (folder / f"{daemon}.out").open("wb") as log:
                running.append(subprocess.Popen([daemon, "-D"], env=environment, stdout=log, stderr=log))
        end = time.monotonic() + timeout_s
        while (
            "idle"
            not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True).stdout
        ):
            if time.monotonic() > end:
                raise RuntimeError(f"Slurm did not come up: {(folder / 'slurmctld.log').read_text()[-1000:]}")
            time.sleep(0.2)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)
