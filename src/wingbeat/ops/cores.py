"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads() -> int:
    """Physical cores this process may use: its affinity, two hyper-threads counted once, within the cgroup's quota."""
    cores = physical_cores()
    return max(1, min(cores, cgroup_quota() or cores))


def physical_cores() -> int:
    """Physical cores that the affinity of this process leaves to it."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len({_core_of(cpu) for cpu in cpus})


def _core_of(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text().strip()
    except OSError:
        return str(cpu)


def cgroup_quota() -> int | None:
    """Whole cores of the container's CPU quota (cgroup v2, else v1), None without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else max(1, round(int(quota) / int(period)))
