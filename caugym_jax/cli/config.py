"""Configurations: finds `grpo.py` in configs/, applies overrides, checks sections before launch.

A configuration file defines `get_config(arg: str | None) -> ml_collections.ConfigDict`. Each
section is the keyword arguments of one function, so a wrong key or type fails here, with its
nearest match, and not an hour into a run.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
    "num_train_epochs": "steps",
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


def _build(cls: type[T], section: Any, where: str, root: type) -> T:
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


def _meant(key: str, fields: Iterable[str], where: str, root: type) -> str:
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


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a settings class and of the classes in it."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _plain(section: Any) -> Any:
    return section.to_dict() if isinstance(section, ml_collections.ConfigDict) else section


def _value(value: Any, hint: Any, where: str, root: type) -> Any:
    """`value` as the annotation `hint` says.

    Raises:
      UserError: it is of another type.
    """
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where, root)
    found = _as(value, hint)
    if found is _NOT:
        shown = value if isinstance(value, Text) else repr(value)
        raise UserError(f"{where}={shown}: must be {_named(hint)}")
    return found


_NOT: Any = object()  # no value of this type
_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    type(None): "none",
}  # fmt: skip
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
        read = (read,)
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
