"""Configurations: finds `grpo.py` in configs/, applies overrides, checks sections before launch.

A configuration file defines `get_config(arg: str | None) -> ml_collections.ConfigDict`. Each
section is the keyword arguments of one function, so a wrong key or type fails here, with its
nearest match, and not an hour into a run.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

import caugym_jax.configs
from caugym_jax.errors import UserError

CONFIGS = Path(caugym_jax.configs.__path__[0]).resolve()


def load(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The configuration of `NAME.py[:ARG]` with `key.path=value` overrides applied.

    NAME.py is a path, or the name of a file in configs/.

    Raises:
      UserError: no such file (nearest name given), unknown key, or a value of another type.
    """
    name, _, arg = spec.partition(":")
    path = _find(name)
    module = _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config(arg): see configs/sft.py")
    config = module.get_config(arg or None)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--config.{override}: write --config.{key}=VALUE")
        _set(config, key, text)
    config.lock()
    return config


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the known word most like `word`, or all of them."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def check_section(name: str, section: Any, function: Callable) -> dict[str, Any]:
    """The section as keyword arguments of `function`; refuses a key that it does not take."""
    known = {
        p.name: p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    values = section.to_dict() if isinstance(section, ml_collections.ConfigDict) else dict(section)
    for key in values:
        if key not in known:
            raise UserError(f"config.{name} has no key {key!r}: {nearest(key, known)}")
        if values[key] is None and "None" not in str(known[key].annotation):
            raise UserError(f"config.{name}.{key} may not be None")
    return values


def check_counts(config: ml_collections.ConfigDict, keys: Sequence[str]) -> None:
    """Refuses a value below 1 at any of the dotted keys."""
    values = flat(config)
    for key in keys:
        if type(values.get(key)) is not int or values[key] < 1:
            raise UserError(
                f"config.{key}={values.get(key)}: a whole number of at least 1 is wanted"
            )


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{dotted key: JSON value}, for comparing and storing."""
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), child)
        else:
            out[prefix] = list(value) if isinstance(value, tuple) else value

    walk("", config.to_dict())
    return out


def differences(old: dict[str, Any], new: dict[str, Any], ignore: Sequence[str]) -> list[str]:
    """`key: old -> new` for every key that differs and does not start with an ignored prefix."""
    keys = sorted(set(old) | set(new))
    missing = "(absent)"
    return [
        f"{k}: {old.get(k, missing)} -> {new.get(k, missing)}"
        for k in keys
        if old.get(k, missing) != new.get(k, missing)
        and not any(k == i or k.startswith(i + ".") for i in ignore)
    ]


def _find(name: str) -> Path:
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    known = sorted(p.name for p in CONFIGS.glob("*.py"))
    raise UserError(f"no configuration {name!r} here or in configs/: {nearest(name, known)}")


def _module(path: Path) -> ModuleType:
    """The file as a module: one of caugym_jax.configs, or one of its own."""
    if path.resolve().parent == CONFIGS:
        return importlib.import_module(f"caugym_jax.configs.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"configuration_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file: a configuration is named NAME.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _set(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    *sections, last = key.split(".")
    node = config
    for depth, section in enumerate([*sections, last]):
        where = ".".join(["config", *sections[:depth]])
        if not isinstance(node, ml_collections.ConfigDict) or section not in node:
            known = list(node.keys()) if isinstance(node, ml_collections.ConfigDict) else []
            raise UserError(f"{where} has no key {section!r}: {nearest(section, known)}")
        if depth < len(sections):
            node = node[section]
    old = node[last]
    if isinstance(old, ml_collections.ConfigDict):
        raise UserError(f"--config.{key} is a section: set one of {', '.join(old.keys())}")
    value = _parse(text)
    wanted = node.get_type(last)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is str and not isinstance(value, str) and value is not None:
        value = text
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if wanted is tuple and isinstance(value, str):
        value = tuple(_parse(part) for part in value.split(","))
    if wanted is tuple and old and isinstance(value, tuple):
        kinds = {type(part) for part in old}
        wrong = [part for part in value if type(part) not in kinds]
        if wrong:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"--config.{key}={text}: {wrong[0]!r} is not {names}, as in {old!r}")
    if value is None and not sections:
        raise UserError(f"config.{key} may not be None")
    if value is not None and wanted is not type(None) and type(value) is not wanted:
        like = "" if old is None else f" like {old!r}"
        raise UserError(
            f"--config.{key}={text} is of type {type(value).__name__}: {wanted.__name__}{like} "
            "is wanted"
        )
    with node.ignore_type():
        node[last] = value


def _parse(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return os.path.expanduser(text)
