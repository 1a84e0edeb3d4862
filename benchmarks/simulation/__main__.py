# SPDX-License-Identifier: Apache-2.0
"""Simulates: python -m benchmarks.simulation [--only STUDY]... [--redraw]."""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.report import embed
from benchmarks.simulation import pictures, report
from benchmarks.simulation.studies import STUDIES

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Simulate, print, write and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(STUDIES), default=[])
    parser.add_argument("--redraw", action="store_true", help="simulate nothing")
    arguments = parser.parse_args()
    path = ROOT / "benchmarks/simulation/results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with ProcessPoolExecutor() as pool:
        for name in [] if arguments.redraw else arguments.only or list(STUDIES):
            started = time.monotonic()
            found = json.dumps(STUDIES[name](pool))
            results[name] = json.loads(found, parse_float=lambda text: float(f"{float(text):.5g}"))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            lines = [f'"{study}": {json.dumps(found)}' for study, found in results.items()]
            path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if results.keys() >= STUDIES.keys():
        pictures.draw(results, ROOT / "docs")
        embed(report.markdown(results), ROOT / "docs/scale.md", report.BEGIN)


if __name__ == "__main__":
    main()
