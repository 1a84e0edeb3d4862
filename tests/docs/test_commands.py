# SPDX-License-Identifier: Apache-2.0
"""The commands of the pages run as they stand there, and print what the pages say."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import NOT_RUN, PAGES, ROOT, Commands, blocks, commands, same_everywhere
from tests.functional.program import PROGRAM, problems
from tests.services import wait_for

DELETED = "22222222-bbbb-4bbb-8bbb-222222222222"  # of the quick start
TIMEOUT = 60.0  # seconds


def blocks_that_tests_take() -> Iterator[tuple[str, str, int]]:
    """Page, heading and number of each, from the calls of `commands` in all tests."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "commands":
                page, heading, *number = (ast.literal_eval(each) for each in node.args)
                yield page, heading, *(number or [0])


def test_each_command_is_run_by_a_test() -> None:
    documented = {(page, *place) for page in PAGES for place in blocks(page)}
    assert len(documented) > 30
    assert documented == {*blocks_that_tests_take()}


@pytest.mark.parametrize("begin", NOT_RUN)
def test_what_is_not_run_is_a_command(begin: str) -> None:
    scripts = [each.script for page in PAGES for each in blocks(page).values()]
    assert [script for script in scripts if re.search(f"^{begin}", script, re.MULTILINE)]


def test_no_command_is_only_indented() -> None:
    """Else it would be none of those that are run."""
    indented = re.compile(r"^    (?:\$ |[\w./-]*(?:watcher|curl|pip|python3|sudo|jq) ).*", re.M)
    fenced = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    texts = {name: fenced.sub("", path.read_text()) for name, path in PAGES.items()}
    assert not {name: found for name, text in texts.items() if (found := indented.findall(text))}


def test_targets_of_make_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {
        target
        for page in (*PAGES.values(), ROOT / "CONTRIBUTING.md")
        for target in re.findall(r"(?:`|^ *)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= {*targets}


def environment() -> dict[str, str]:
    """An environment with the program on its path."""
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"}


def run(block: Commands, directory: Path, **more: str) -> str:
    """What a block prints."""
    done = subprocess.run(
        ["bash", "-ec", block.script],
        cwd=directory,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, problems(done.stderr)) == (0, "")
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This checkout, with the environment of these tests as if ``make`` had made it."""
    made = tmp_path / "checkout"
    (made / ".venv").mkdir(parents=True)
    for source, target in ((ROOT, made), (Path(sys.prefix), made / ".venv")):
        for each in source.iterdir():
            if each.name not in (".venv", ".installed"):
                (target / each.name).symlink_to(each)
    (made / ".venv/.installed").touch()
    return made


def in_any_demo(output: str) -> Counter[str]:
    """Lines of the demo, less what differs from one run to the next: their order, too."""
    output = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID", output)
    output = re.sub(r"/\S+/staging/", "/", output)
    return Counter(re.sub(r" +[\d.]+ (m?s)\b", r" N \1", line) for line in output.splitlines())


@pytest.mark.parametrize(
    "block",
    [commands("README.md", "See it"), commands("quickstart.md", "Watch it work")],
    ids=["README.md", "quickstart.md"],
)
def test_the_demo_prints_what_it_says(checkout: Path, block: Commands) -> None:
    said = in_any_demo(block.prints)
    assert said.total() > 20
    assert not said - in_any_demo(run(block, checkout))


SETUP = commands("quickstart.md", "Try it with files of your own", 1)


def test_the_quick_start_in_two_terminals(checkout: Path, tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()
    session = [
        commands("quickstart.md", "Try it with files of your own", 0),
        SETUP,
        commands("quickstart.md", "Try it with files of your own", 2),
        commands("quickstart.md", "Try it with files of your own", 3),
        commands("quickstart.md", "Let the service do it", 0),
    ]
    output = tmp_path / "output"
    with output.open("wb") as stdout:
        terminal = subprocess.Popen(
            ["bash", "-ec", "\n".join(block.script for block in session)],
            cwd=checkout,
            env=environment() | {"TMPDIR": str(places)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "Sweep finished" in output.read_text(), TIMEOUT, "the first sweep")
        (place,) = places.iterdir()
        run(commands("quickstart.md", "Let the service do it", 1), place)
        wait_for(lambda: not (place / "staging" / DELETED).exists(), TIMEOUT, "the removal")
    finally:
        os.killpg(terminal.pid, signal.SIGINT)  # as Ctrl-C does
        assert terminal.wait(TIMEOUT) == 0
    printed = re.sub(r"(?m)^.* INFO watcher.*\n", "", output.read_text())
    assert same_everywhere(printed) == same_everywhere("".join(each.prints for each in session))


def test_kept_or_removed_prints_what_it_says(tmp_path: Path) -> None:
    run(SETUP, tmp_path)
    audit = tmp_path / "audit.json"
    with (tmp_path / "glance-api.conf").open("a") as configuration:
        configuration.write(f"audit_log = {audit}\n")
    site = {"OS_GLANCE_CONFIG_DIR": str(tmp_path)}
    for block in (commands("formats.md", "Tables", 1), commands("formats.md", "JSON")):
        assert run(block, tmp_path, **site) == f"{DELETED}\n"
    for block in (
        commands("kept-or-removed.md", "It doesn't remove my file"),
        commands("kept-or-removed.md", "The disk is full now", 0),
        commands("kept-or-removed.md", "The disk is full now", 1),
        commands("kept-or-removed.md", "It removed my file"),
    ):
        assert same_everywhere(run(block, tmp_path, **site)) == same_everywhere(block.prints) != []
    sizes = run(commands("operate.md", "Audit", AUDIT=str(audit)), tmp_path)
    assert DELETED in sizes
