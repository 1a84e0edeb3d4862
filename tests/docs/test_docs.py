# SPDX-License-Identifier: Apache-2.0
"""The documentation: it builds without a warning, and says what the program says."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.pages import DOCS, ROOT, same_everywhere
from tests.functional.program import help_of
from tools import draw_session
from watcher.cli import COMMANDS
from watcher.conf import GROUP, watcher_opts
from watcher.reconcile.planner import Reason

PAGES = sorted(DOCS.glob("**/*.md"))
OPERATION = [DOCS / name for name in ("messages.md", "operate.md", "metrics.md")]

LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
}
HANDED_ON = ("why_not_sent",)  # functions whose result, literal texts, goes to the log
_FORMAT = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d*(?:\.\d+)?[a-z]")
_CODE = re.compile(r"^```(\w*)\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
_BLANK = ".{1,99}?"


class Text(NamedTuple):
    """What the program can say.

    :param level: of the log; "" for the line that ends the program
    :param where: file and line
    :param text: with blanks for its placeholders
    """

    level: str
    where: str
    text: str

    def found_in(self, page: str) -> bool:
        """Whether a page has it, with anything in place of the blanks."""
        pattern = _BLANK.join(re.escape(part) for part in self.text.split("…"))
        return re.search(f"{self.level} {pattern}" if self.level else pattern, page) is not None


def _blanked(node: ast.expr, where: str) -> str:
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "%s" for part in node.values]
        text = "".join(str(part) for part in parts)
    elif isinstance(node, ast.Constant):
        text = str(node.value)
    else:
        raise AssertionError(f"{where}: the text is no literal, so it can't be looked for")
    return _FORMAT.sub("…", text)


def _texts(path: Path) -> Iterator[Text]:
    """All that a module can say."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        said: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.FunctionDef) and node.name in HANDED_ON:
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and isinstance(part.value, ast.Tuple):
                    said += [("", text) for text in part.value.elts]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "Condition":
                levels = [ast.unparse(each.value) for each in node.keywords if each.arg == "level"]
                level = levels[0].removeprefix("logging.") if levels else "ERROR"
                said = [(level, node.args[1]), ("INFO", node.args[2])]
            elif name == "ConfigError" and not isinstance(node.args[0], ast.Name | ast.Call):
                said = [("", node.args[0])]  # else it is another exception's text
            elif name == "LOG.log":
                said = [("[A-Z]+", node.args[1])]
            elif name.removeprefix("LOG.") in LEVELS and name.startswith("LOG."):
                said = [(LEVELS[name.removeprefix("LOG.")], node.args[0])]
        for level, text in said:
            blanked = _blanked(text, where)
            if re.search(r"\w{3}", blanked):  # else all of it is handed on
                yield Text(level, where, blanked)


@cache
def program_texts() -> list[Text]:
    """All that the program can say in its log, and in the line that ends it."""
    return [text for path in sorted((ROOT / "watcher").rglob("*.py")) for text in _texts(path)]


def code(page: Path, *languages: str) -> list[str]:
    """Blocks of code of a page in these languages; "inline" for what stands in a sentence."""
    found = [(match[1], match[2], match[3]) for match in _CODE.finditer(page.read_text())]
    return [
        block if inline is None else inline
        for language, block, inline in found
        if ("inline" if inline is not None else language) in languages
    ]


def _words(text: str) -> str:
    return " ".join(text.split())


@cache
def explained() -> str:
    """What the pages on operation quote, each quotation in one line."""
    quotations = (block for page in OPERATION for block in code(page, "text", "inline"))
    return "\n".join(_words(quotation) for quotation in quotations)


def test_every_line_is_explained() -> None:
    missing = [" ".join(text) for text in program_texts() if not text.found_in(explained())]
    assert len(program_texts()) > 40
    assert not missing, "docs/messages.md must say what to do about:\n" + "\n".join(missing)


def test_no_line_is_explained_that_the_program_does_not_say() -> None:
    lines = [
        line
        for block in code(DOCS / "messages.md", "text")
        for line in block.replace("\n    ", " ").splitlines()
        if line.partition(" ")[0] in LEVELS.values()
    ]
    assert lines
    assert not [line for line in lines if not any(t.found_in(line) for t in program_texts())]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_exit_codes_agree_with_the_help(command: str) -> None:
    promised = re.findall(r"[:;] (\d) ", _words(help_of(command).partition("Exit codes")[2]))
    row = re.compile(rf"^\| `{f'glance-staging-watcher {command}'.strip()}` \|.*\|(.*)\|$", re.M)
    reported = row.findall((DOCS / "operate.md").read_text())
    assert len(reported) == 1, f"no row for the command {command!r} on docs/operate.md"
    assert re.findall(r"(\d):", reported[0]) == promised != []


def _slugs(page: Path) -> set[str]:
    text = page.read_text()
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    return slugs | set(re.findall(r"^\((.*)\)=$", text, re.M))


def test_links_of_the_other_documents_lead_somewhere() -> None:
    broken = []
    for page in sorted(ROOT.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            path = ROOT / name if name else page
            if not path.exists() or (anchor and anchor not in _slugs(path)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_tests_that_pages_name_exist() -> None:
    sources = [path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))]
    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for page in PAGES:
        for text in code(page, "inline"):
            if re.fullmatch(r"tests/[\w/.]+", text) and not (ROOT / text).exists():
                missing.append(f"{page.name}: {text}")
            for name in re.findall(r"\btest_\w+(?:\.py)?", text):
                is_file = name.endswith(".py")
                if not (name in names if is_file else any(f"def {name}(" in s for s in sources)):
                    missing.append(f"{page.name}: {name}")
    assert not missing


def test_options_of_the_command_line_exist() -> None:
    known = " ".join(help_of(command) for command in ["", *COMMANDS])
    lines = [
        line
        for page in PAGES
        for block in code(page, "sh", "console", "ini", "inline")
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"--[a-z]", line) or re.search(r"glance-staging-watcher\b[^/]* --", line)
    ]
    options = {
        option
        for line in lines
        if not re.search(r"\bpip\b|podman|rabbitmqctl|oslo-config|sphinx|\bapt\b", line)
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", line)
    }
    assert options
    assert not {option for option in options if not re.search(rf"{option}\b(?!-)", known)}


def test_options_of_the_configuration_exist() -> None:
    names = {opt.name for opt in watcher_opts}
    used = set()
    for page in PAGES:
        for block in code(page, "ini"):
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            parser.read_string(block)
            used |= set(parser[GROUP]) if parser.has_section(GROUP) else set()
    assert used <= names


def test_measured_figures_are_those_of_the_performance_page() -> None:
    table = (DOCS / "comparison.md").read_text().partition("## What it costs")[2]
    figures = re.findall(r"\b\d[\d.,]*(?= (?:s|ms|MB)\b)", table)
    measured = (DOCS / "performance.md").read_text()
    assert len(figures) >= 8
    assert not [
        f for f in figures if not re.search(rf"(?<![\d.]){re.escape(f)}(?![\d.])", measured)
    ]


def test_the_session_in_the_picture_is_that_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("script"):
        pytest.skip("script isn't installed")
    monkeypatch.setattr(draw_session, "SIZES", dict.fromkeys(draw_session.SIZES, 1))
    draw_session.main(tmp_path / "session.svg")

    def words(picture: Path) -> list[str]:
        said = "\n".join(re.findall(r">([^<>]+)</text>", picture.read_text()))
        lines = same_everywhere(said.replace("&#160;", " "))
        # Where a line is broken depends on how wide the sizes and ages are.
        return " ".join(line for line in lines if not line.startswith("File system")).split()

    assert len(words(DOCS / "session.svg")) > 100
    assert words(tmp_path / "session.svg") == words(DOCS / "session.svg")


def test_each_reason_has_a_remedy() -> None:
    page = (DOCS / "kept-or-removed.md").read_text()
    assert not [reason.value for reason in Reason if f"`{reason.value}`" not in page]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation; a warning, a link that leads nowhere among them, is a failure."""
    if not os.environ.get("CI"):
        for module in ("sphinx", "myst_parser", "furo"):
            pytest.importorskip(module)
    built = tmp_path_factory.mktemp("docs")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qnW", "--keep-going", DOCS, built],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return built


def test_it_builds_without_a_warning(html: Path) -> None:
    assert (html / "index.html").exists()


def test_no_row_has_left_its_table(html: Path) -> None:
    assert not [page.name for page in html.glob("*.html") if "<p>| " in page.read_text()]


def test_every_option_has_its_reference(html: Path) -> None:
    page = (html / "configuration.html").read_text()
    assert not [opt.name for opt in watcher_opts if f"staging_watcher.{opt.name}" not in page]


def test_every_page_can_be_reached(html: Path) -> None:
    start = (html / "index.html").read_text()
    assert not [
        page for page in PAGES if f"{page.relative_to(DOCS).with_suffix('.html')}" not in start
    ]
