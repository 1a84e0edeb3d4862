# SPDX-License-Identifier: Apache-2.0
"""Of other projects the program uses what they document, and changes none of their globals."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "watcher"

PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # of the standard library

HOOKS = {"threading.excepthook"}  # of the standard library, which programs are to set

IMPORTERS = {"import_module", "__import__", "find_spec"}
NAMED = {"getattr", "setattr", "delattr", "hasattr", "attrgetter"}  # by a string
CHANGES = {"pop", "setdefault", "update", "clear", "__setitem__", "__delitem__"}


def private(name: str) -> bool:
    """Whether a part of a dotted name is private."""
    return any(
        part.startswith("_") and not part.startswith("__") and part not in PUBLIC
        for part in name.split(".")
    )


def foreign(name: str) -> bool:
    """Whether a module is another project's."""
    return name.partition(".")[0] != "watcher"


class Finder(ast.NodeVisitor):
    """Collects uses of private names, as lines and texts."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._modules: set[str] = set()  # names that stand for modules of other projects

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            if foreign(name.name):
                self._modules.add(name.asname or name.name.partition(".")[0])
                self._note(node, name.name, private(name.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level or not foreign(module):
            return
        for name in node.names:
            full = f"{module}.{name.name}"
            if full in sys.modules or name.name.islower():
                self._modules.add(name.asname or name.name)
            self._note(node, full, private(full))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
        self._note(node, ast.unparse(node), private(node.attr) and not own)
        if isinstance(node.ctx, ast.Store | ast.Del):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            replaced = isinstance(root, ast.Name) and root.id in self._modules
            self._note(node, f"{ast.unparse(node)} =", replaced and ast.unparse(node) not in HOOKS)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        changed = isinstance(node.ctx, ast.Store | ast.Del)
        table = ast.unparse(node.value)
        self._note(node, f"{table}[...] =", changed and table.endswith("sys.modules"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        own = bool(node.args) and ast.unparse(node.args[0]) in {"self", "cls"}
        for argument in node.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                text = argument.value
                self._note(node, text, name in IMPORTERS and foreign(text) and private(text))
                self._note(node, text, name in NAMED and private(text) and not own)
        if isinstance(function, ast.Attribute) and name in CHANGES:
            table = ast.unparse(function.value)
            self._note(node, ast.unparse(function), table.endswith("sys.modules"))
        self.generic_visit(node)

    def _note(self, node: ast.AST, text: str, wrong: bool) -> None:
        if wrong:
            self.found.append((getattr(node, "lineno", 0), text))


def uses(source: str) -> list[tuple[int, str]]:
    """Uses of private names in a module, as lines and texts."""
    finder = Finder()
    finder.visit(ast.parse(source))
    return finder.found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_a_module_uses_public_interfaces_only(path: Path) -> None:
    assert uses(path.read_text()) == []


def definitions(source: str) -> Iterator[str]:
    """Public classes and constants of a module."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (name.id for name in node.targets if isinstance(name, ast.Name))


def test_no_two_classes_or_constants_have_one_name() -> None:
    names = Counter(
        name
        for path in SOURCE.rglob("*.py")
        for name in set(definitions(path.read_text()))
        if not name.startswith("_") and name != "LOG"
    )
    assert names["WorkQueue"] == names["MAX_FAILURES"] == 1
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("connection._channel", "connection._channel"),
        ("self.connection._channel = 1", "self.connection._channel"),
        ("from oslo_messaging import _drivers", "oslo_messaging._drivers"),
        ("from oslo_messaging._drivers import common", "oslo_messaging._drivers.common"),
        ("import oslo_messaging._drivers.common", "oslo_messaging._drivers.common"),
        ("import_module('oslo_messaging._drivers')", "oslo_messaging._drivers"),
        ("getattr(transport, '_driver')", "_driver"),
        ("sys.modules['eventlet'] = None", "sys.modules[...] ="),
        ("del sys.modules['eventlet']", "sys.modules[...] ="),
        ("sys.modules.setdefault('eventlet', None)", "sys.modules.setdefault"),
        ("import logging\nlogging.raiseExceptions = False", "logging.raiseExceptions ="),
        ("from watchdog.observers import inotify_c\ninotify_c.SIZE = 1", "inotify_c.SIZE ="),
        ("import a.b\na.b.limit = 1", "a.b.limit ="),
    ],
)
def test_a_private_name_is_found(source: str, found: str) -> None:
    assert found in [text for _, text in uses(source)]


@pytest.mark.parametrize(
    "source",
    [
        "self._stopped = True",
        "cls._made[key] = 1",
        "from watcher.cli import _table",
        "module.__name__",
        "getattr(self, '_lock')",
        "from __future__ import annotations",
        "'eventlet' in sys.modules",
        "import os\nresult = os.stat(path).st_size",
    ],
)
def test_what_is_public_or_ours_is_not_found(source: str) -> None:
    assert uses(source) == []
