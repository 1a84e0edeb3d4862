# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest

from tools import demo


def test_the_demo_ends_well_and_in_time() -> None:
    run = subprocess.run(
        [sys.executable, "tools/demo.py"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout.startswith(
        "Setting up a staging directory, a database and a scripted Glance\n"
    )
    assert run.stdout.count("removed after") == 10
    assert run.stdout.count("  kept  ") == 4
    assert "Cleaned 3 stale staging files, 3 ignored (0 errors)" in run.stdout
    assert "All as expected" in run.stdout


@pytest.mark.parametrize("mistake", ["keeps residue", "removes live files"])
def test_the_demo_finds_a_watcher_that_is_wrong(mistake: str) -> None:
    broken = (
        "from tools import demo\n"
        "from watcher.reconcile import planner\n"
        "from watcher.reconcile.planner import Action, Reason\n"
        f"wrong = Action.{'KEEP' if mistake == 'keeps residue' else 'REMOVE'}, Reason.DELETED\n"
        "planner.action_for = lambda *args, **more: wrong\n"
        "demo.TIMEOUT = 0.5\n"
        "raise SystemExit(demo.main())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", broken], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert ("  KEPT  " if mistake == "keeps residue" else "REMOVED") in run.stdout
    assert "NOT as expected" in run.stdout
    assert demo.TIMEOUT > 0.5


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_the_demo_says_in_one_line_that_it_cannot_watch(limit: str) -> None:
    script = f"echo 0 >/proc/sys/user/{limit} && exec {sys.executable} tools/demo.py"
    run = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],  # a limit of its own
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert run.stderr.startswith("The demo can't watch its directory: ")
    assert run.stderr.count("\n") == 1
