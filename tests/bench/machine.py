"""What the figures were measured on: said beside them, since without it they mean nothing."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from tests.bench import measure

PACKAGES = ("asyncpg", "aiohttp", "starlette", "uvicorn", "uvloop", "httptools", "msgspec")


def describe(folder: Path) -> dict[str, str]:
    return {
        "processor": f"{measure.CORES} cores, {processor_name()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "data on": file_system(folder),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "load average at the start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder, by its longest mount point, or "unknown"."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [(at, kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "unknown"
