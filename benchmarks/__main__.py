"""Run every benchmark and write docs/benchmarks.md; `python -m benchmarks capture query` runs some.

Each script prints Markdown on stdout and its progress on stderr. A part that is run alone replaces
its own section and leaves the others as they were, each with its own date and commit.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PARTS = {
    "capture": "What the triggers cost the writer",
    "drain": "From the backlog to the store",
    "freshness": "From commit to searchable",
    "growth": "Ever larger catalogues",
    "query": "A recommendation",
    "rollout": "A new tower under load",
    "search": "Recall under filters",
    "towers": "The towers",
    "verify": "A million items verified",
}
HEAD = """# Benchmarks

Written by `make bench`. The machines are small and shared: take medians and ratios, compare within
one section, and run it on yours. Targets stand beside the figures; a target missed is said.
"""
SECTION = re.compile(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- |\Z)", re.DOTALL | re.MULTILINE)


def main() -> int:
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    failed = [name for name in names if not run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str) -> bool:
    """The part's section is on the page. False when its script failed: the old one stays."""
    print(f"== {name}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.bench_{name}"], stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        return False
    sections = _sections()
    sections[name] = f"## {PARTS[name]}\n\n{_where()}\n\n{done.stdout.decode().strip()}\n"
    body = "\n".join(f"<!-- {one} -->\n{sections[one]}" for one in PARTS if one in sections)
    PAGE.write_text(f"{HEAD}\n{body}", encoding="utf-8")
    return True


def _sections() -> dict[str, str]:
    if not PAGE.exists():
        return {}
    return {
        match[1]: match[2].strip() + "\n"
        for match in SECTION.finditer(PAGE.read_text(encoding="utf-8"))
    }


def _where() -> str:
    """Date, machine and commit, in one line."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"*{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {os.cpu_count()} cores {platform.machine()} · "
        f"Python {platform.python_version()} · {platform.system()} · commit {commit or 'unknown'}*"
    )


if __name__ == "__main__":
    raise SystemExit(main())
