"""Configurations: finds `grpo.py` in configs/, applies overrides, makes settings of its sections.

A configuration file defines `get_config(arg: str | None)`, which returns a mapping or an
ml_collections.ConfigDict: its sections set fields of settings classes (runs/settings.py). A wrong
key, type or value fails here, with the nearest match, and not an hour into a run.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import difflib
import importlib
import importlib.util
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ml_collections

import caugym_jax.configs
from caugym_jax.cli import keys
from caugym_jax.errors import UserError

CONFIGS = Path(caugym_jax.configs.__path__[0]).resolve()


def read(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the configuration `NAME[.py][:ARG]` sets, with `key.path=value` overrides applied:
    nested dictionaries, in which an override is `Text`.

    NAME is a path, or the name of a file in configs/. Its `get_config(arg)` returns a mapping or a
    ConfigDict.

    Raises:
      UserError: no such file (nearest name given), or no configuration in it.
    """
    name, _, arg = spec.partition(":")
    path = _find(name)
    module = _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config(arg): see configs/sft.py")
    values = _plain(module.get_config(arg or None))
    if not isinstance(values, Mapping):
        raise UserError(f"get_config of {path} returns {values!r}: it must return a mapping")
    values = copy.deepcopy(dict(values))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"--config.{override}: write --config.{key}=VALUE")
        _override(values, key, text)
    return values


def _override(values: dict[str, Any], key: str, text: str) -> None:
    *sections, last = key.split(".")
    node = values
    for depth, section in enumerate(sections):
        inner = _plain(node.get(section))
        if inner is None:
            inner = {}
        if not isinstance(inner, Mapping):
            where = ".".join(["config", *sections[: depth + 1]])
            raise UserError(f"{where} has no key {key.split('.')[depth + 1]!r}: it is no section")
        node[section] = inner = dict(inner)
        node = inner
    if isinstance(_plain(node.get(last)), Mapping) and not text.startswith("{"):
        raise UserError(f"--config.{key} is a section: set one of {', '.join(node[last])}")
    node[last] = Text(text)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """(the options of a command that takes --config=NAME[:ARG], the overrides of its keys).

    An override is --config.KEY=VALUE or --config.KEY VALUE. `--help` beside a --config prints that
    configuration's keys and ends the program.
    """
    overrides, rest = [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        override = argument.removeprefix("--config.")
        if "=" not in override:
            if not arguments or arguments[0].startswith("--"):
                parser.error(f"{argument}: write {argument}=VALUE")
            override = f"{override}={arguments.pop(0)}"
        overrides.append(override)
    if {"-h", "--help"} & set(rest):
        named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        named.add_argument("--config")
        spec = named.parse_known_args(rest)[0].config
        if spec:
            values = read(spec, overrides)
            print(keys.text(known_method(values.get("method"), keys.methods()), values))
            sys.exit(0)
    return parser.parse_args(rest), overrides


def known_method(method: Any, known: Iterable[str]) -> str:
    """`method`, or a line that lists those that are known."""
    if method not in known:
        raise UserError(f"config.method={method!r}: must be one of {', '.join(known)}")
    return method


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the known word most like `word`, or all of them."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


# What other libraries call a setting, and where it is here: its key, or the last part of it.
FOREIGN = {
    "learning_rate": "peak",
    "lr": "peak",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "decay",
    "adam_beta1": "b1",
    "adam_beta2": "b2",
    "adam_epsilon": "eps",
    "max_grad_norm": "clip_norm",
    "max_steps": "steps",
    "num_train_epochs": "data.epochs",
    "per_device_train_batch_size": "data.batch_size",
    "train_batch_size": "data.batch_size",
    "dataset_name": "data.path",
    "gradient_accumulation_steps": "microbatches",
    "gradient_checkpointing": "model.remat",
    "model_name_or_path": "model.name",
    "bf16": "model.dtype",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_target_modules": "lora.targets",
    "logging_steps": "log.every",
    "report_to": "log.wandb",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "evaluation.every",
    "num_generations": "group_size",
    "group_size": "num_generations",
    "num_ppo_epochs": "num_iterations",
    "num_mini_batches": "num_minibatches",
    "cliprange": "epsilon",
    "kl_coef": "beta",
    "lam": "gae_lambda",
}


class Text(str):
    """A value from the command line: text whose type its field decides."""


T = TypeVar("T")


def build(cls: type[T], section: Any, name: str | None = None) -> T:
    """The settings dataclass `cls` with the values of a configuration's section.

    A field's annotation says what it takes. Values of a configuration file have that type already
    (a whole number may stand for a number, a list for a tuple); text of the command line is read as
    the type asks. A field that is a dataclass takes a section. Absent keys keep their defaults.

    Args:
      section: a mapping or ConfigDict; None: empty.
      name: the section's place in the configuration, for messages; "" for the whole. None: the
        class's name in lower case.

    Raises:
      UserError: a key that the class has not (with the nearest, or this project's name of it), a
        value of another type, or one that the class refuses.
    """
    name = cls.__name__.lower() if name is None else name
    return _build(cls, section, f"config.{name}" if name else "config", cls)


def _build(cls: Any, section: Any, where: str, root: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    section = {} if section is None else _plain(section)
    if not isinstance(section, Mapping):
        keys = ", ".join(sorted(fields))
        raise UserError(f"{where}={section} is a section: set one of its keys ({keys})")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in section.items():
        if key not in fields:
            raise UserError(f"{where} has no key {key!r}: {_meant(key, fields, where, root)}")
        values[key] = _value(value, hints[key], f"{where}.{key}", root)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}.{error}") from error


def _meant(key: str, fields: Iterable[str], where: str, root: Any) -> str:
    """What a wrong key was probably meant to be."""
    if key == "output_dir":
        return "the run's folder is --workdir"
    homes = list(_keys(root))
    prefix = where.partition(".")[2]
    if prefix and prefix not in {home.rpartition(".")[0] for home in homes}:
        homes = [f"{prefix}.{home}" for home in homes]  # a section that was built on its own
    for wanted in (FOREIGN.get(key, key), key):
        found = [home for home in homes if home == wanted or home.endswith(f".{wanted}")]
        found = [home for home in found if home.startswith(f"{prefix}.")] or found
        if found:
            return f"use {' or '.join(f'config.{home}' for home in found)}"
    return nearest(key, fields)


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a settings class and of the classes in it."""
    for name, hint in typing.get_type_hints(cls).items():
        if _is_section(hint):
            yield from _keys(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _plain(section: Any) -> Any:
    return section.to_dict() if isinstance(section, ml_collections.ConfigDict) else section


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _value(value: Any, hint: Any, where: str, root: Any) -> Any:
    """`value` as the annotation `hint` says.

    Raises:
      UserError: it is of another type.
    """
    if _is_section(hint):
        return value if isinstance(value, hint) else _build(hint, value, where, root)
    found = _as(value, hint)
    if found is _NOT:
        shown = value if isinstance(value, Text) else repr(value)
        raise UserError(f"{where}={shown}: must be {_named(hint)}")
    return found


_NOT: Any = object()  # no value of this type
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "none",
}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def _choices(hint: Any) -> tuple[Any, ...]:
    """The members of a union, None first."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(sorted(typing.get_args(hint), key=lambda choice: choice is not type(None)))


def _named(hint: Any) -> str:
    """A type in words."""
    *first, last = _choices(hint)[::-1]
    if first:
        return " or ".join(map(_named, (*first, last)))
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind in (tuple, Sequence):
        many = not parts or parts[-1] is Ellipsis or len(parts) == 1
        count = "" if many else f"{len(parts)} "
        return f"{count}{_PLURAL.get(parts[0], 'values') if parts else 'values'}, comma-separated"
    return _WORDS.get(kind, "a mapping")


def _as(value: Any, hint: Any) -> Any:
    """`value` as a type; _NOT: it is none of that type."""
    choices = _choices(hint)
    if len(choices) > 1:
        return next((f for f in (_as(value, c) for c in choices) if f is not _NOT), _NOT)
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    read = _parse(value) if isinstance(value, Text) else _plain(value)
    if kind is Any:
        return read
    if kind is type(None):
        return None if read is None else _NOT
    if kind is typing.Literal:
        return next((part for part in parts if part in (read, value)), _NOT)
    if kind is str:  # text of the command line may look like a number
        return read if isinstance(read, str) else str(value) if isinstance(value, str) else _NOT
    if kind is float and type(read) is int:
        return float(read)
    if kind in (int, float, bool):
        return read if type(read) is kind else _NOT
    if kind in (tuple, Sequence):
        return _as_tuple(value, read, parts)
    if not isinstance(read, Mapping):
        return _NOT
    found = {key: _as(one, parts[1] if parts else Any) for key, one in read.items()}
    return _NOT if any(one is _NOT for one in found.values()) else found


def _as_tuple(value: Any, read: Any, parts: tuple[Any, ...]) -> Any:
    """A tuple from a list, a tuple, or one text whose elements commas separate."""
    if isinstance(read, str):
        read = read.split(",")
    elif isinstance(value, Text) and not isinstance(read, tuple | list):
        read = (value,)
    if not isinstance(read, tuple | list):
        return _NOT
    if isinstance(value, Text):
        read = [Text(str(one).strip()) for one in read]
    if not parts or parts[-1] is Ellipsis or len(parts) == 1:
        parts = (parts[0] if parts else Any,) * len(read)
    if len(parts) != len(read):
        return _NOT
    found = tuple(_as(one, hint) for one, hint in zip(read, parts, strict=True))
    return _NOT if any(one is _NOT for one in found) else found


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
    for path in (Path(name), Path(f"{name}.py"), CONFIGS / name, CONFIGS / f"{name}.py"):
        if path.is_file():
            return path
    known = sorted(p.name for p in CONFIGS.glob("*.py") if "def get_config(" in p.read_text())
    raise UserError(f"no configuration {name!r} here or in configs/: {nearest(name, known)}")


def _module(path: Path) -> types.ModuleType:
    """The file as a module: one of caugym_jax.configs, or one of its own."""
    if path.resolve().parent == CONFIGS:
        return importlib.import_module(f"caugym_jax.configs.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"configuration_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file: a configuration is named NAME.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parse(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return os.path.expanduser(text)
