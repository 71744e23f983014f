"""A new tower under load: what `tests/rollout_run.py` measures, as a page.

python -m benchmarks.bench_rollout [--items 100000] [--kills 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = 2.0  # freshness p99 during the backfill, over that without one
PHASES = {
    "alone": "without a backfill",
    "backfill": "during the backfill",
    "backfill with kills": "during the backfill, while processes are killed",
}


def main() -> int:
    options = _options()
    command = [sys.executable, str(ROOT / "tests" / "rollout_run.py")]
    command += ["--items", str(options.items), "--kills", str(options.kills)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout.decode())
        return done.returncode
    found = json.loads(done.stdout)
    print(page(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, promote and take back under load.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def page(found: dict[str, Any]) -> str:
    """Markdown of one run."""
    fresh, queries = found["freshness_ms"], found["queries"]
    ratio = fresh["backfill"]["p99"] / fresh["alone"]["p99"]
    promotions = ", ".join(f"{seconds:.1f}" for seconds in found["promote_s"][1:])
    return "\n".join(
        [
            f"{found['items']:,} items, two Celery workers over Redis, Qdrant Edge as a process "
            f"that they share, the encoder of the tests; 20 changes a second all the time. Killed "
            f"with -9 while the index was built: {found['kills']['worker']} workers, "
            f"{found['kills']['reindex']} times `twinspan reindex`. Built in "
            f"{found['build_s']:,.0f} s, promoted through the gate, rolled back in "
            f"{found['rollback_s']:.2f} s, promoted again (gate and switch: {promotions} s).",
            "",
            "| freshness of live changes | changes | p50 ms | p99 ms |",
            "|---|---|---|---|",
            *(
                f"| {words} | {fresh[name]['n']:,} | {fresh[name]['p50']:,.0f} "
                f"| {fresh[name]['p99']:,.0f} |"
                for name, words in PHASES.items()
            ),
            "",
            f"p99 during the backfill: {ratio:.1f} times that without. Target: at most "
            f"{TARGET:.0f}: {'met' if ratio <= TARGET else 'missed'}.",
            "",
            f"Queries meanwhile: {sum(queries['answers'].values()):,} from "
            f"{len(queries['answers'])} indexes, {queries['failed']} failed, {queries['mixed']} "
            f"with a score that the encoder they name would not give; p50 "
            f"{queries['ms']['p50']:.0f} ms, p99 {queries['ms']['p99']:.0f} ms. Afterwards "
            "`verify` with vectors found no drift in either index.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
