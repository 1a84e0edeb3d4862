# SPDX-License-Identifier: Apache-2.0
"""The command line: options before and after the command, and what is no command."""

import re
import subprocess
import sys
from typing import Any

import pytest
from oslo_config import cfg
from oslo_log import log

from watcher.cli import COMMANDS, main, split
from watcher.cli import valued as our_valued
from watcher.startup import server_of


@pytest.mark.parametrize(
    ("arguments", "name", "others"),
    [
        ([], None, []),
        (["sweep"], "sweep", []),
        (["sweep", "--config-file", "F"], "sweep", ["--config-file", "F"]),
        (["--config-file", "F", "sweep"], "sweep", ["--config-file", "F"]),
        (["--config-file=F", "sweep", "--dry-run"], "sweep", ["--config-file=F", "--dry-run"]),
        (["--debug", "-d", "status", "--all"], "status", ["--debug", "-d", "--all"]),
        (["--config-dir", "D", "--format", "json", "check"], "check", None),
        (["--config-file", "sweep"], None, ["--config-file", "sweep"]),
        (["--log-fi", "L", "sweep"], "sweep", ["--log-fi", "L"]),
        (["--debug"], None, ["--debug"]),
        (["--since", "2d", "history"], "history", ["--since", "2d"]),
        (["--config-file", "F", "swep"], "swep", ["--config-file", "F"]),
        ([""], "", []),
    ],
)
def test_the_command_is_found(
    arguments: list[str], name: str | None, others: list[str] | None
) -> None:
    found, rest = split(arguments)
    assert found == name
    assert rest == (others if others is not None else [each for each in arguments if each != name])


def test_the_options_that_take_a_value_are_known() -> None:
    class Registry(cfg.ConfigOpts):
        def register_cli_opt(self, opt: cfg.Opt, *others: Any, **more: Any) -> Any:
            if not isinstance(opt, cfg.BoolOpt):
                names = [opt.name, *(str(each.name) for each in opt.deprecated_opts)]
                valued.update(f"--{name}" for name in names)
            return super().register_cli_opt(opt, *others, **more)

    valued: set[str] = set()
    registry = Registry()
    log.register_options(registry)
    registry([], default_config_files=[], default_config_dirs=[])
    assert valued - our_valued() <= {"--log_config_append", "--log-config"} | {
        "--log_file", "--log_dir", "--config-source"
    }  # fmt: skip
    assert {"--log-file", "--log-dir", "--log-config-append", "--log-date-format"} <= valued


@pytest.mark.parametrize(
    "arguments",
    [
        ["swep"],
        ["--config-file", "F", "swep"],
        ["--debug", "F", "sweep"],
        ["F"],
        [""],
        ["--nonsense", "sweep", "now"],
        ["--dry-run"],
        ["--dry-run", "sweeep"],
        ["sweep", "status"],
        ["sweep", "now"],
        ["sweep", "--dry-rum"],
    ],
)
def test_a_typo_starts_nothing(arguments: list[str]) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from watcher.cli import main; raise SystemExit(main())",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2 and not run.stdout
    assert re.search("Unknown command|usage: ", run.stderr)
    assert "Traceback" not in run.stderr


def test_no_command_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", "/x", "dance\x1b[1m"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("glance-staging-watcher: Unknown command 'dance\\x1b[1m'; expected one ")
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://glance:s3cr3t@db:3306/glance?charset=utf8", "mysql at db:3306"),
        ("mysql://glance:s3c@s3cr3t@127.0.0.1/glance", "mysql at 127.0.0.1"),
        ("mysql://glance:s3c/s3cr3t@127.0.0.1/glance", "mysql at 127.0.0.1"),
        ("postgresql://glance:s3cr3t@[::1]:5432/glance", "postgresql at [::1]:5432"),
        ("postgresql://glance:s3cr3t@/glance?host=/run/postgresql", "postgresql at localhost"),
        ("sqlite:////var/lib/x.sqlite", "sqlite at /var/lib/x.sqlite"),
        ("rabbit://a:s3cr3t@h1:5672,b:s3cr3t@h2:5672/", "rabbit at h2:5672"),
        ("s3cr3t", "none that can be read"),
        ("glance:s3cr3t@h", "none that can be read"),
        ("s3/cr3t://x@h", "none that can be read"),
        ("", "none that can be read"),
    ],
)  # fmt: skip
def test_the_server_of_a_url_without_its_secrets(url: str, expected: str) -> None:
    assert server_of(url) == expected
    assert "s3c" not in server_of(url)
