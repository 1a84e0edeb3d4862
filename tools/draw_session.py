# SPDX-License-Identifier: Apache-2.0
"""Draws a terminal session from a real run: python -m tools.draw_session [FILE]."""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("glance-staging-watcher")
COLUMNS = 100
COMMANDS = ("sweep --dry-run", "sweep", "status")
LIVE, DELETED, UNKNOWN = (f"{digit * 8}-aaaa-4aaa-8aaa-{digit * 12}" for digit in "123")
SIZES = {  # MiB
    LIVE: 300,
    f"{DELETED}.raw": 2048,
    f"{DELETED}.uc": 512,
    UNKNOWN: 64,
    "notes.txt": 1,
}
FORMAT = """\
<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>A terminal: what a sweep would do, the sweep, and the state after it</title>
<style>text {{ font: {char_height}px "DejaVu Sans Mono", Consolas, monospace; white-space: pre }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="100%" height="100%"/></clipPath>
{lines}</defs>
<rect width="100%" height="100%" rx="8" fill="#292929"/>
<g transform="translate(9, 9)">{backgrounds}<g>{matrix}</g></g>
</svg>
"""


def main(path: Path) -> None:
    """Run the commands on files of their own, and draw what they print."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as place:
        _prepare(Path(place))
        for command in COMMANDS:
            console.print(Text(f"$ glance-staging-watcher {command}", style="bold"))
            console.print(Text.from_ansi(_run(command, place)))
    path.write_text(
        re.sub(r"\n\s*", "\n", console.export_svg(unique_id="session", code_format=FORMAT))
    )


def _prepare(place: Path) -> None:
    staging = place / "staging"
    staging.mkdir()
    for name, size in SIZES.items():
        with open(staging / name, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * 2**20)
    (place / "glance-api.conf").write_text(
        f"[DEFAULT]\nnode_staging_uri = file://{staging}\n"
        f"[database]\nconnection = sqlite:///{place}/glance.sqlite\n"
        "[staging_watcher]\nnotifications = false\n"
    )
    rows = f"('{LIVE}', 0), ('{DELETED}', 1)"
    script = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); database.executescript("
        f'"CREATE TABLE images (id CHAR(36) PRIMARY KEY, deleted BOOLEAN);'
        f'INSERT INTO images VALUES {rows}")'
    )
    subprocess.run([sys.executable, "-c", script, place / "glance.sqlite"], check=True)


def _run(command: str, place: str) -> str:
    """Output of a command at a terminal."""
    line = f"stty cols {COLUMNS} rows 50; exec {PROGRAM} {command} 2>/dev/null"
    run = subprocess.run(
        ["script", "--quiet", "--return", "--command", line, "/dev/null"],
        env=os.environ | {"OS_GLANCE_CONFIG_DIR": place, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.replace("\r", "").replace(place, "/var/lib/glance")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/session.svg")
