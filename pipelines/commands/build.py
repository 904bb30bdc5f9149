"""From parsed parameters to an options object.

A command names an options dataclass. The dataclass alone states the defaults and checks the values; the command line
only adds flags, types and help. The class is named as "module:Class" and imported when the command is parsed, so that
`emu3 --help` loads neither stage.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import click

Parameters = dict[str, Any]
MEBIBYTE = 1 << 20


class OptionsCommand(click.Command):
    """A command whose callback receives one options object, built from the parameters named like its fields.

    Fields of nested dataclasses count as fields of their own. A parameter that is not given takes the field's default,
    which `--help` shows too; where the help describes the default in words (`show_default="…"`), the parameter stays
    None. Parameters without a field reach the callback by keyword. `adjust` may rewrite the parameters first.

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
            parameters = self.adjust(ctx.params)
            others = {name: value for name, value in parameters.items() if name not in defaults}
            ctx.params = {"options": fill(pkgutil.resolve_name(self.options_class), parameters), **others}
        return rest

    def load_defaults(self, ctx: click.Context) -> Parameters:
        """Give the context the defaults of the fields, except for those that the help describes in words.

        Returns all of them.
        """
        defaults = parameter_defaults(pkgutil.resolve_name(self.options_class))
        in_words = {param.name for param in self.params if isinstance(getattr(param, "show_default", None), str)}
        ctx.default_map = {
            name: value
            for name, value in defaults.items()
            if name not in in_words and value not in (None, (), "", MISSING)
        }
        return defaults


def options_command(
    options_class: str, name: str | None = None, adjust: Callable[[Parameters], Parameters] = dict
) -> Callable[[Callable[..., None]], OptionsCommand]:
    """Decorate a function `f(options, …)` as the command that builds `options`."""
    return click.command(name, cls=OptionsCommand, options_class=options_class, adjust=adjust)


def fill(options_class: type, parameters: Mapping[str, Any]) -> Any:
    """Build an options object; a parameter that is None or () leaves a field with a default at its default."""
    given = {name: value for name, value in parameters.items() if value not in (None, ())}
    values: Parameters = {}
    for field in fields(options_class):
        default, in_mebibytes = _default(field), _in_mebibytes(field.name)
        if is_dataclass(default) and not isinstance(default, type):
            nested = {inner.name: given[inner.name] for inner in fields(default) if inner.name in given}
            values[field.name] = _with_values(default, nested)
        elif in_mebibytes in given:
            values[field.name] = given[in_mebibytes] * (MEBIBYTE if in_mebibytes != field.name else 1)
        elif default is MISSING and field.name in parameters:
            values[field.name] = parameters[field.name]
    return options_class(**values)


def _with_values(default: Any, given: Parameters) -> Any:
    """Return the options `default` with the given values; defaults that its class derives are derived again."""
    derived = type(default)()
    values = {field.name: getattr(default, field.name) for field in fields(default)}
    changed = {name: value for name, value in values.items() if value != getattr(derived, name)}
    return type(default)(**{**changed, **given})


def parameter_defaults(options_class: type) -> Parameters:
    """Every parameter that can fill an options object, with its default: MISSING if there is none.

    A field in bytes is a parameter in mebibytes: `shard_bytes` is filled by `shard_mb`.
    """
    defaults: Parameters = {}
    for field in fields(options_class):
        default = _default(field)
        if is_dataclass(default):
            defaults |= {inner.name: getattr(default, inner.name) for inner in fields(default)}
        elif field.name.endswith("_bytes"):
            defaults[_in_mebibytes(field.name)] = default // MEBIBYTE
        else:
            defaults[field.name] = default
    return defaults


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _in_mebibytes(name: str) -> str:
    return f"{name.removesuffix('_bytes')}_mb" if name.endswith("_bytes") else name


def choose_engine(parameters: Parameters) -> Parameters:
    """`--workers` without `--engine` means `--engine local`."""
    if parameters["workers"] is not None and parameters["engine"] is None:
        return {**parameters, "engine": "local"}
    return dict(parameters)


def adjust_generation(parameters: Parameters) -> Parameters:
    """`--prompting emu3` fills in the published suffix and negative prompt, where none is given."""
    from lm_stage.text.templates import EMU3_NEGATIVE_PROMPT, EMU3_SUFFIX

    others = choose_engine(parameters)
    if others.pop("prompting") == "emu3":
        published = {"suffix": EMU3_SUFFIX, "negative_prompt": EMU3_NEGATIVE_PROMPT}
        others |= {name: text for name, text in published.items() if others[name] is None}
    return others


def adjust_understanding(parameters: Parameters) -> Parameters:
    """`-` as DATASET means that there is no dataset."""
    others = choose_engine(parameters)
    return {**others, "dataset": None if others["dataset"] == "-" else others["dataset"]}
