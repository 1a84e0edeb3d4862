# SPDX-License-Identifier: Apache-2.0
"""Write the completion of bash, fish and zsh from the commands and options of the program.

completion.py [DIRECTORY]: etc/ by default, in which each shell has a directory.
"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from watcher.cli import COMMANDS, PROGRAM
from watcher.cli.options import ANYTHING, DIRECTORY, FILE, FORMAT, GLOBAL, HELP, Option

ROOT = Path(__file__).parents[1]
NOTE = "# Written by make completion; don't edit it."
LICENCE = "# SPDX-License-Identifier: Apache-2.0"


def own(command: str) -> tuple[Option, ...]:
    """Options of a command that the service doesn't have."""
    return tuple(option for option in COMMANDS[command].options if option is not HELP)


def every() -> list[Option]:
    """All options, each once."""
    found = [*GLOBAL]
    for command in COMMANDS:
        found += [option for option in own(command) if option not in found]
    return found


def words(options: Iterable[Option]) -> str:
    """All spellings of options."""
    return " ".join(sorted(name for option in options for name in option.spellings))


def bash() -> str:
    """Completion of bash."""
    valued = [option for option in every() if option.value]
    cases = []
    for option in valued:
        names = " | ".join(option.names)
        if option.values in (FILE, DIRECTORY):
            kind = "f" if option.values == FILE else "d"
            cases.append(
                f"        {names})\n"
                f'            mapfile -t COMPREPLY < <(compgen -{kind} -- "$word")\n'
                "            compopt -o filenames 2>/dev/null\n"
                "            return ;;"
            )
        elif option.values == ANYTHING:
            cases.append(f"        {names})\n            return ;;")
        else:
            cases.append(f"        {names})\n            words='{' '.join(option.values)}' ;;")
    several = "".join(
        f"                {name}) words+=' {words(own(name))}' ;;\n" for name in COMMANDS
    )
    return f"""\
{LICENCE}
# Completion of {PROGRAM} in bash
{NOTE}

_glance_staging_watcher() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= words i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            {" | ".join(COMMANDS)}) command=${{COMP_WORDS[i]}} ;;
        esac
    done
    case $before in
{chr(10).join(cases)}
        *)
            words='{words(GLOBAL)}'
            case $command in
{several}                *) [[ $word == -* ]] || words='{" ".join(COMMANDS)}' ;;
            esac ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}

complete -F _glance_staging_watcher {PROGRAM}
"""


def fish() -> str:
    """Completion of fish."""
    lines = [LICENCE, f"# Completion of {PROGRAM} in fish", NOTE, "", f"complete -c {PROGRAM} -f"]
    for name, command in COMMANDS.items():
        lines.append(
            f"complete -c {PROGRAM} -n __fish_use_subcommand -a {name} "
            f"-d {shlex.quote(command.summary)}"
        )
    users: dict[Option, list[str]] = {}
    for name in COMMANDS:
        for option in own(name):
            users.setdefault(option, []).append(name)
    for option, names in users.items():
        lines += _fish(option, f" -n '__fish_seen_subcommand_from {' '.join(names)}'")
    for option in GLOBAL:
        lines += _fish(option, "")
    return "\n".join(lines) + "\n"


def _fish(option: Option, condition: str) -> list[str]:
    names = "".join(
        f" -s {name[1:]}" if len(name) == 2 else f" -l {name[2:]}" for name in option.names
    )
    what = shlex.quote(option.text)
    if not option.value:
        values = ""
    elif option.values == FILE:
        values = " -r -F"
    elif option.values == DIRECTORY:
        values = " -x -a '(__fish_complete_directories)'"
    elif option.values == ANYTHING:
        values = " -x"
    else:
        values = f" -x -a '{' '.join(option.values)}'"
    lines = [f"complete -c {PROGRAM}{condition}{names}{values} -d {what}"]
    if option.inverse:
        inverse = option.spellings[-1].removeprefix("--")
        lines.append(f"complete -c {PROGRAM}{condition} -l {inverse}")
    return lines


def zsh() -> str:
    """Completion of zsh."""
    summaries = "\n".join(
        f"        {shlex.quote(f'{name}:{each.summary}')}" for name, each in COMMANDS.items()
    )
    general = "\n".join(f"        {spec}" for option in GLOBAL for spec in _zsh(option))
    cases = ""
    for name in COMMANDS:
        specs = "\n".join(
            f"                {spec}"
            for option in own(name)
            if option is not FORMAT
            for spec in _zsh(option)
        )
        if specs:
            cases += f"        {name})\n            options+=(\n{specs}\n            ) ;;\n"
    (form,) = _zsh(FORMAT)
    return f"""\
#compdef {PROGRAM}
{LICENCE}
{NOTE}

_glance_staging_watcher() {{
    local context state state_descr line
    local -A opt_args
    local -a commands options
    local command=${{${{(M)words[2,CURRENT-1]:#({"|".join(COMMANDS)})}}[1]}}

    commands=(
{summaries}
    )
    options=(
{general}
    )
    case $command in
{cases}    esac
    if [[ -n $command ]]; then
        _arguments $options {form} '*: :'
        return
    fi
    _arguments $options '1: :->command' && return
    [[ $state != command ]] || _describe command commands
}}

_glance_staging_watcher "$@"
"""


def _zsh(option: Option) -> list[str]:
    text = option.text.replace("[", "(").replace("]", ")").replace(":", ";")
    exclusive = f"({' '.join(option.spellings)})" if len(option.spellings) > 1 else ""
    if option in (HELP,) or option.names == ("--version",):
        exclusive = "(- *)"
    if option.names[0].startswith("--config"):
        exclusive = "*"
    lines = []
    for name in option.spellings:
        equals, values = "", ""
        if option.value:
            equals = "=" if name.startswith("--") else ""
            values = f":{option.value.lower().partition('|')[0]}:" + {
                FILE: "_files",
                DIRECTORY: "_files -/",
                ANYTHING: " ",
            }.get(
                option.values if isinstance(option.values, str) else "",
                f"({' '.join(option.values)})",
            )
        what = text if name in option.names else f"the inverse of {option.names[0]}"
        lines.append(shlex.quote(f"{exclusive}{name}{equals}[{what}]{values}"))
    return lines


FILES = {
    f"bash-completion/{PROGRAM}": bash,
    f"fish-completion/{PROGRAM}.fish": fish,
    f"zsh-completion/_{PROGRAM}": zsh,
}


def main(directory: Path) -> None:
    """Write the files."""
    for name, make in FILES.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "etc")
