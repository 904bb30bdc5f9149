"""Reading a YAML file in which every value is a string, with limits on its size, its depth and its aliases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from shared.errors import UsageError
from shared.storage.small_files import read_small_file

MAX_BYTES = 1 << 20
_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
MAX_DEPTH = 50
MAX_NODES = 10_000  # keys, values and collections, with every alias counted as what it stands for


def load_yaml(path: Path) -> Any:
    """Return the content of a file: strings, lists and mappings. Raises UsageError with the line of a problem."""
    content = read_small_file(path, MAX_BYTES)
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{path}: not a YAML file: {error}{_hint(content, error)}") from error
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # OverflowError: "\\UFFFFFFFF" is no character
        raise UsageError(f"{path}: not a YAML file: {error}") from error


class _Loader(yaml.SafeLoader):
    """Keeps every value a string (16:9 is not a number), resolves merge keys (`<<`) and refuses duplicate keys."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<$"))]}
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*_TAGS, None)}  # None: all others

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if duplicates := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {duplicates[0]!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def _check_size(root: yaml.Node) -> None:
    """Raise ComposerError for a document that becomes too large, or endless, once its aliases are replaced."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MAX_NODES  # of a node that contains itself
            if isinstance(node, yaml.ScalarNode):
                _check_text(node)
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(map(size, parts))
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise yaml.composer.ComposerError(
            None, None, f"more than {MAX_NODES} values once aliases are replaced", root.start_mark
        )


def _check_text(node: yaml.ScalarNode) -> None:
    """Raise ComposerError for text that cannot be an argument of a command: it has a null or half a character."""
    if "\0" in node.value or (not node.value.isascii() and node.value != node.value.encode(errors="ignore").decode()):
        raise yaml.composer.ComposerError(None, None, "a null character or half of a surrogate pair", node.start_mark)


def _hint(content: bytes, error: yaml.MarkedYAMLError) -> str:
    """Return advice for a reference that is not quoted within braces or brackets, where YAML ends it at its `{`."""
    lines = content.decode(errors="replace").splitlines()
    line = error.problem_mark.line if error.problem_mark else 0
    is_reference = line < len(lines) and re.search(r"[\[{,:]\s*\$\{", lines[line])
    return '; within { } and [ ], write references in quotes: "${name}"' if is_reference else ""
