"""Every key of a configuration with its type, default and meaning.

    python -m caugym_jax.cli.keys > docs/settings.md

All of it is read from the source of the settings classes (runs/settings.py and what it imports),
so that `--help` imports no jax: a field's annotation, its default, and its line under `Attributes:`
in the class's docstring.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
# The classes of whole configurations: one for each method, and one of studies.
TOPS = ("caugym_jax.runs.settings", "caugym_jax.studies.settings")
STUDY = "study"


class Key(NamedTuple):
    """A field of a settings class."""

    name: str
    type: str
    default: str  # as Python writes it
    meaning: str


class Group(NamedTuple):
    """A settings class as a section of a configuration."""

    section: str  # "" for what stands above all sections
    title: str
    keys: tuple[Key, ...]


@functools.cache
def _module(name: str) -> ast.Module:
    path = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _found(module: str, name: str) -> tuple[str, ast.ClassDef | ast.expr] | None:
    """Where a name of a module of this package is defined, and its class or value."""
    for node in _module(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("caugym"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _found(node.module, alias.name)
    return None


def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """`_found`, where that is a class."""
    found = _found(module, name)
    return (found[0], found[1]) if found and isinstance(found[1], ast.ClassDef) else None


def _meanings(doc: str) -> Iterator[tuple[str, str]]:
    """(field, meaning) of a class's docstring."""
    _, _, listed = doc.partition("\nAttributes:\n")
    for entry in re.split(r"\n(?=  \w)", listed.split("\n\n")[0]):
        names, _, meaning = entry.strip().partition(": ")
        for name in names.split(", "):
            yield name, " ".join(meaning.split())


def _fields(module: str, cls: ast.ClassDef) -> dict[str, tuple[str, str, ast.expr, str]]:
    """{field: (module, annotation, default, meaning)} of a dataclass, in its own order."""
    fields: dict[str, tuple[str, str, ast.expr, str]] = {}
    for base in reversed(cls.bases):
        if found := _class(module, ast.unparse(base)):
            fields |= _fields(*found)
    meanings = dict(_meanings(ast.get_docstring(cls) or ""))
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            name, annotation = ast.unparse(node.target), ast.unparse(node.annotation)
            if not annotation.startswith("ClassVar"):
                inherited = fields[name][3] if name in fields else ""
                meaning = meanings.get(name, inherited)
                fields[name] = module, annotation, node.value, meaning
    return {name: (*field[:3], meanings.get(name, field[3])) for name, field in fields.items()}


def _shown(module: str, value: ast.expr) -> str:
    """A default as Python writes it; a constant by its value."""
    if isinstance(value, ast.Name):
        found = _found(module, value.id)
        if found and isinstance(found[1], ast.expr):
            return _shown(found[0], found[1])
    try:
        return repr(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def _group(section: str, module: str, cls: ast.ClassDef) -> Group:
    keys = [
        Key(name, annotation, _shown(where, default), meaning)
        for name, (where, annotation, default, meaning) in _fields(module, cls).items()
        if not isinstance(default, ast.Call)
    ]
    return Group(section, _title(module, cls), tuple(keys))


def _title(module: str, cls: ast.ClassDef) -> str:
    """The first paragraph of the class's docstring, or of its base's."""
    doc = ast.get_docstring(cls)
    for base in [] if doc else cls.bases:
        if found := _class(module, ast.unparse(base)):
            return _title(*found)
    return " ".join((doc or "").partition("\nAttributes:\n")[0].split("\n\n")[0].split())


def methods() -> dict[str, tuple[str, ast.ClassDef]]:
    """The classes of whole configurations with their modules, by method."""
    found = {}
    for top in TOPS:
        for node in _module(top).body:
            if isinstance(node, ast.ClassDef):
                method = _fields(top, node).get("method")
                if method is not None and ast.literal_eval(method[2]):
                    found[ast.literal_eval(method[2])] = top, node
    return found


def groups(method: str) -> list[Group]:
    """The sections of a method's configuration, its own first."""
    module, cls = methods()[method]
    own = {ast.unparse(n.target) for n in cls.body if isinstance(n, ast.AnnAssign)}
    sections = list(_sections("", module, cls))
    sections.sort(key=lambda group: group.section not in own)
    return [_group("", module, cls), *sections]


def _sections(prefix: str, module: str, cls: ast.ClassDef) -> Iterator[Group]:
    """The sections of a class, each followed by the sections in it."""
    for name, (where, annotation, default, _) in _fields(module, cls).items():
        if isinstance(default, ast.Call):  # a section, by default that of the class
            found = _class(where, annotation)
            assert found is not None, annotation
            yield _group(f"{prefix}{name}", *found)
            yield from _sections(f"{prefix}{name}.", *found)


def text(method: str, values: Mapping[str, Any], width: int | None = None) -> str:
    """What `--config=X --help` prints: every key, with the configuration's value where it differs.

    Args:
      values: the configuration, {key: value or section}.
      width: columns; None: the terminal's.
    """
    width = min(width or shutil.get_terminal_size().columns, 100)
    lines = []
    for group in groups(method):
        section = values
        for name in filter(None, group.section.split(".")):
            section = section.get(name) or {}
        lines += ["", *textwrap.wrap(f"{group.section or 'run'}: {group.title}", width)]
        for key in group.keys:
            name = f"{group.section}.{key.name}" if group.section else key.name
            own = repr(section[key.name]) if key.name in section else key.default
            default = "" if own == key.default else f"  (default {_typed(key.default)})"
            lines.append(f"  --config.{name}={_typed(own)}{default}  [{key.type}]")
            meaning = textwrap.wrap(key.meaning, width - 6)
            lines += [f"      {line}" for line in meaning]
    return "\n".join(lines[1:])


def _typed(value: str) -> str:
    """A value as one types it on the command line."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    if isinstance(found, tuple | list):
        return ",".join(map(str, found))
    return str(found).lower() if found is None or isinstance(found, bool) else str(found)


def markdown() -> str:
    """docs/settings.md."""
    found: dict[Group, list[str]] = {}
    training = [method for method in methods() if method != STUDY]
    for method in training:
        for group in groups(method):
            if group.section:
                found.setdefault(group, []).append(method)
            else:
                top = group
    parts = [inspect.cleandoc(_HEAD), _chapter("The run", top, ", ".join(training))]
    for group in sorted(found, key=lambda group: len(found[group]) != len(training)):
        users = found[group]
        only = f" ({', '.join(users)})" if len(users) < len(training) else ""
        parts.append(_chapter(f"{group.section}{only}", group))
    for group in groups(STUDY):
        title = f"Study: {group.section}" if group.section else "A study (`caugym study`)"
        parts.append(_chapter(title, group))
    return "\n\n".join(parts) + "\n"


def _chapter(title: str, group: Group, known: str = "") -> str:
    """A group's keys as a table.

    Args:
      known: the methods, where the group names one.
    """
    rows = [f"## {title}\n\n{group.title}\n"]
    rows += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in group.keys:
        if key.name == "method" and known:
            key = key._replace(default=known)
        cells = f"`{key.name}`", f"`{key.type}`", f"`{key.default}`", key.meaning
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


_HEAD = """
    # Settings

    Every key of a configuration, generated from the classes that hold the settings
    (`python -m caugym_jax.cli.keys > docs/settings.md`). A configuration file sets what differs
    from these defaults; the command line sets keys once more, as `--config.SECTION.KEY=VALUE`.
    `python -m caugym_jax.train --config=NAME --help` prints the same for one configuration, with
    its own values.
"""


if __name__ == "__main__":
    print(markdown(), end="")
