# SPDX-License-Identifier: Apache-2.0
"""Man pages and completion know what the program knows."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.functional.program import PROGRAM, help_of
from tests.packaging.conftest import SOURCE, needed
from tools import completion
from watcher import service
from watcher.cli import COMMANDS
from watcher.cli.options import GLOBAL
from watcher.conf import watcher_opts

Shell = Callable[..., set[str]]

MAN_PAGES = sorted((SOURCE / "docs/man").glob("*.8"))
SERVICE = ""
EACH_COMMAND = pytest.mark.parametrize("command", [SERVICE, *COMMANDS])

# What bash does for a user who presses the tab key after the last of the words.
COMPLETE = r"""
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_glance_staging_watcher
printf '%s\n' "${COMPREPLY[@]}"
"""

# The same in zsh, which completes only in a line that is edited on a terminal.
ZSHRC = r"""
fpath=($COMPLETIONS $fpath)
autoload -U compinit
compinit -D -u
setopt no_auto_list
compadd() {
    local -a hits prefix hidden
    case ${@[1,(i)(-|--)]} in
        *-[AOD]\ *) builtin compadd "$@"; return ;;
    esac
    builtin compadd -A hits "$@"
    zparseopts -E -a ignored P:=prefix p:=hidden
    print -rl -- $prefix[2]$hidden[2]$^hits >>$OFFERED
    builtin compadd "$@"
}
finish() exit
zle -N finish
bindkey '^I' complete-word '^X' finish
"""
ZSH_TERMINAL = r"""
zmodload zsh/zpty
zpty terminal zsh --no-globalrcs -i
zpty -w -n terminal "$1"$'\t\x18'
while zpty -r terminal; do :; done
"""


PARSER = (
    "import sys; from watcher import cli, conf; name = sys.argv[1];"
    "conf.load(['--help'], cli_opts=cli.parser_options(name) if name else [])"
)


@cache
def options_of(command: str) -> set[str]:
    """The options that the parser knows."""
    return options_in([sys.executable, "-c", PARSER, command])


def options_in(command: list[str | Path]) -> set[str]:
    """The options in the help that a command prints."""
    run = subprocess.run(
        command,
        env=os.environ | {"COLUMNS": "500"},  # no name of an option is broken in two
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"(?:^|[ ,])(--?[a-zA-Z][\w-]*)", run.stdout.partition("options:")[2]))


def page(path: Path) -> str:
    """A man page as one reads it; it must render without a warning."""
    needed("man")
    run = subprocess.run(
        ["man", "--warnings", "--encoding=utf8", "--local-file", path],
        env=os.environ | {"MANWIDTH": "200", "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not run.stderr
    return run.stdout


@pytest.mark.parametrize("path", MAN_PAGES, ids=lambda path: path.stem)
def test_a_man_page_renders(path: Path) -> None:
    text = page(path)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert section in text.splitlines()


@EACH_COMMAND
def test_the_man_page_has_each_command_and_option(command: str) -> None:
    text = page(SOURCE / "docs/man/glance-staging-watcher.8")
    described = set(re.findall(r"--?[a-zA-Z][\w-]*", text.partition("\nOPTIONS")[2]))
    assert options_of(command) <= described
    assert f"glance-staging-watcher {command}".strip() in text
    assert not command or re.search(rf"^ +{command}(  |$)", text, re.MULTILINE)


def section(name: str) -> str:
    """One section of the man page, its lines joined."""
    text = page(SOURCE / "docs/man/glance-staging-watcher.8")
    found = re.search(rf"^{name}\n(.*?)^(?=\S)", text, re.MULTILINE | re.DOTALL)
    assert found
    return " ".join(found[1].split())


def test_the_man_page_has_each_option_of_the_configuration() -> None:
    text = section("CONFIGURATION")
    assert re.findall(r"(\w+) = ", text) == [opt.name for opt in watcher_opts]
    for opt in watcher_opts:
        default = opt.sample_default or opt.default
        said = text.partition(f"{opt.name} = ")[2].partition(" = ")[0]
        if default is not None and opt.name not in ("exchange", "topics"):
            shown = str(default).lower() if isinstance(default, bool) else default
            assert f"Default: {shown}." in said, opt.name


def test_the_man_page_has_each_signal() -> None:
    named = set(re.findall(r"SIG[A-Z0-9]+", section("SIGNALS")))
    assert named == {signal.Signals(number).name for number in service.SIGNALS}


def test_the_man_page_of_the_upgrade_check_has_its_option() -> None:
    program = PROGRAM.with_name("glance-staging-watcher-status")
    found = options_in([program, "upgrade", "check", "--help"])
    assert found <= options_of(""), "the man page of those is named"
    usage = [str(program), "upgrade", "check", "--help"]
    said = subprocess.run(usage, capture_output=True, text=True, check=True).stdout
    assert "--json" in said
    text = page(SOURCE / "docs/man/glance-staging-watcher-status.8")
    assert "upgrade check [--json] [option ...]" in text


def in_bash(*words: str) -> set[str]:
    """What bash offers for the last of the words."""
    script = SOURCE / "etc/bash-completion/glance-staging-watcher"
    run = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", script, "glance-staging-watcher", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not run.stderr
    return set(run.stdout.split())


def in_fish(*words: str) -> set[str]:
    """What fish offers for the last of the words."""
    script = SOURCE / "etc/fish-completion/glance-staging-watcher.fish"
    line = " ".join(["glance-staging-watcher", *words])
    run = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; complete --do-complete '{line}'"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not run.stderr
    offers = {offer.partition("\t")[0] for offer in run.stdout.splitlines()}
    # fish 4 also offers words that have these letters elsewhere.
    return {offer for offer in offers if offer.startswith(words[-1])}


def in_zsh(*words: str) -> set[str]:
    """What zsh offers for the last of the words."""
    with tempfile.TemporaryDirectory() as directory:
        offered = Path(directory, "offered")
        offered.touch()
        Path(directory, ".zshrc").write_text(ZSHRC)
        subprocess.run(
            ["zsh", "--no-rcs", "-c", ZSH_TERMINAL, "zsh", " ".join([PROGRAM.name, *words])],
            env=os.environ
            | {"ZDOTDIR": directory, "OFFERED": str(offered), "TERM": "dumb"}
            | {"COMPLETIONS": str(SOURCE / "etc/zsh-completion")},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        return set(offered.read_text().split())


@pytest.fixture(params=[in_bash, in_fish, in_zsh])
def complete(request: pytest.FixtureRequest) -> Shell:
    """A shell's completion."""
    shell: Shell = request.param
    needed(shell.__name__.removeprefix("in_"))
    return shell


def test_completion_is_what_is_generated(tmp_path: Path) -> None:
    completion.main(tmp_path)
    for name in completion.FILES:
        written = (SOURCE / "etc" / name).read_text()
        assert written == (tmp_path / name).read_text(), "make completion updates it"


@EACH_COMMAND
def test_the_list_of_options_is_that_of_the_parser(command: str) -> None:
    options = [*GLOBAL, *(COMMANDS[command].options if command else ())]
    assert {name for option in options for name in option.spellings} == options_of(command)


@EACH_COMMAND
def test_the_help_is_short_and_has_two_examples(command: str) -> None:
    said = help_of(command, 80)
    examples = said.partition("\nexamples:\n")[2].partition("\n\n")[0].splitlines()
    shown = [line.split()[1:] for line in examples if line.startswith("  glance-staging-watcher")]
    assert len(shown) == 2 and len(examples) == 4
    for words in shown:
        assert not command or words[0] == command
        options = {word for word in words if word.startswith("-")}
        assert options <= options_of(words[0] if words[0] in COMMANDS else "")
    assert len(said.splitlines()) <= (30 if command else 55)
    long = [line for line in said.splitlines() if len(line) > 80]
    assert not [line for line in long if not line.startswith(("usage: ", "  glance-staging"))]
    for option in COMMANDS[command].options if command else GLOBAL:
        assert re.search(rf"^  {re.escape(option.names[0])}\b", said, re.MULTILINE)


@EACH_COMMAND
def test_completion_knows_each_option(complete: Shell, command: str) -> None:
    offered = complete(*command.split(), "--") | complete(*command.split(), "-")
    assert offered == options_of(command)


def test_completion_knows_commands_and_values(complete: Shell, tmp_path: Path) -> None:
    assert complete("") == set(COMMANDS)
    assert complete("sw") == {"sweep"}
    assert complete("sweep", "--dr") == {"--dry-run"}
    assert complete("check", "--format", "j") == {"json"}
    assert complete("--debug", "check", "--form") == {"--format"}
    (tmp_path / "glance-api.conf").touch()
    (tmp_path / "glance.d").mkdir()
    path = f"{tmp_path}/glance"
    assert complete("--config-file", path) > {f"{tmp_path}/glance-api.conf"}
    assert {name.rstrip("/") for name in complete("--config-dir", path)} == {f"{tmp_path}/glance.d"}


def test_bash_loads_the_completion_by_the_name_of_the_program() -> None:
    said = subprocess.run(
        ["bash", "-c", f"source {SOURCE}/etc/bash-completion/{PROGRAM.name}; complete -p"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == f"complete -F _glance_staging_watcher {PROGRAM.name}\n"
