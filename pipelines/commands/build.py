"""From parsed parameters to an options object.

A command names an options dataclass, which alone states the defaults and checks the values; the command line only adds
flags, types and help. The class is named as "module:Class" and imported when the command is parsed, so that
`emu3 --help` loads neither stage.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cached_property
from typing import Any

import click

from shared.errors import UsageError
from shared.text import is_text

Parameters = dict[str, Any]
MEBIBYTE = 1 << 20
_PATHS = ("DATASET", "DIR", "FILE", "FILE.json", "FILE.jsonl", "FILE.png", "PROMPTS")  # metavars of paths


class OptionsCommand(click.Command):
    """A command whose callback receives one options object, built from the parameters named like its fields.

    The fields of a nested dataclass, such as `sampling`, are parameters too; a field in bytes (`shard_bytes`) is a
    parameter in mebibytes (`shard_mb`). A parameter that is not given takes the field's default, which `--help` shows
    too; where the help describes the default in words (`show_default="…"`), the parameter stays None.
    Parameters without a field reach the callback by keyword. `adjust` may rewrite the parameters first.

    Parsing raises UsageError for values that the dataclass refuses, before the command does anything.
    """

    def __init__(
        self, *args: Any, options_class: str, adjust: Callable[[Parameters], Parameters] = dict, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.options_class = options_class
        self.adjust = adjust

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        defaults = self.load_defaults(ctx)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            check_texts(self.params, ctx.params)
            parameters = self.adjust(ctx.params)
            others = {name: value for name, value in parameters.items() if name not in defaults}
            ctx.params = {"options": fill(pkgutil.resolve_name(self.options_class), parameters), **others}
        return rest

    def load_defaults(self, ctx: click.Context) -> Parameters:
        """Give the context the defaults that the help does not describe in words; return all of them."""
        defaults = self.defaults()
        in_words = {param.name for param in self.params if isinstance(getattr(param, "show_default", None), str)}
        ctx.default_map = {
            name: value
            for name, value in defaults.items()
            if name not in in_words and value not in (None, (), "", MISSING)
        }
        return defaults

    def defaults(self) -> Parameters:
        """Return every parameter that can fill an options object, with its default."""
        return parameter_defaults(pkgutil.resolve_name(self.options_class))


def check_texts(parameters: Iterable[click.Parameter], values: Parameters) -> None:
    """Raise UsageError, naming the flag, for text that is not UTF-8. Arguments are paths, which may be any bytes."""
    for parameter in parameters:
        if isinstance(parameter, click.Argument) or parameter.metavar in _PATHS:
            continue
        value = values.get(parameter.name or "")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not is_text(text):
                raise UsageError(f"{parameter.opts[0]}: expected text in UTF-8, got {text!r:.100}")


class ChoiceOf(click.Choice[str]):
    """A choice of the names in "module:NAMES", which is imported once the choices are needed."""

    def __init__(self, names: str) -> None:
        self.case_sensitive = True
        self._names = names

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(pkgutil.resolve_name(self._names))


def options_command(
    options_class: str, name: str | None = None, adjust: Callable[[Parameters], Parameters] = dict
) -> Callable[[Callable[..., None]], OptionsCommand]:
    """Decorate a function `f(options, …)` as the command that builds `options`."""
    return click.command(name, cls=OptionsCommand, options_class=options_class, adjust=adjust)


def fill(options_class: type, parameters: Parameters) -> Any:
    """Build an options object; a parameter that is None or () leaves a field with a default at its default."""
    parameters = dict(_in_bytes(name, value) for name, value in parameters.items())
    given = {name: value for name, value in parameters.items() if value not in (None, ())}
    values: Parameters = {}
    for field in fields(options_class):
        default = _default(field)
        if is_dataclass(default):
            nested = {inner.name: given[inner.name] for inner in fields(default) if inner.name in given}
            values[field.name] = default.__class__(**nested)
        elif field.name in (parameters if default is MISSING else given):
            values[field.name] = parameters[field.name]
    return options_class(**values)


def parameter_defaults(options_class: type) -> Parameters:
    """Every parameter that can fill an options object, with its default: MISSING if there is none."""
    defaults: Parameters = {}
    for field in fields(options_class):
        default = _default(field)
        if is_dataclass(default):
            defaults |= {inner.name: getattr(default, inner.name) for inner in fields(default)}
        elif field.name.endswith("_bytes"):
            defaults[f"{field.name.removesuffix('_bytes')}_mb"] = default // MEBIBYTE
        else:
            defaults[field.name] = default
    return defaults


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _in_bytes(name: str, value: Any) -> tuple[str, Any]:
    """Convert a parameter in mebibytes, such as `shard_mb`, to the field in bytes that it fills, `shard_bytes`."""
    if name.endswith("_mb") and value is not None:
        return f"{name.removesuffix('_mb')}_bytes", value * MEBIBYTE
    return name, value
