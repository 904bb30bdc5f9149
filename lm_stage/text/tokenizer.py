"""Encodes text to token ids and back, by the vocabulary of a checkpoint.

The surface form of a control token in user text is text; it never becomes the token. Libraries: tiktoken, tokenizers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shared.errors import CheckpointError
from shared.storage.paths import local_directory
from shared.storage.small_files import parse_json_object, read_small_file
from shared.tokens.layout import TokenLayout

RANKS_FILE, VISION_FILE, JSON_FILE = "emu3.tiktoken", "emu3_vision_tokens.txt", "tokenizer.json"
CONTROL_SURFACES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
MAX_TOKEN_ID = 2**31
MAX_JSON_VALUES = 4_000_000  # in a tokenizer.json; published ones have about a million
MAX_MERGES_PER_TOKEN = 8  # in a tokenizer.json; published ones have 1 to 3
SPLIT_PATTERN = (  # how text is split before BPE merges, as published: contractions, words, single digits, …
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer(Protocol):
    """A vocabulary with its token layout. `fingerprint` is the SHA-256 of its files."""

    layout: TokenLayout
    vocab_size: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Return the ids of ordinary text."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; control and visual tokens are skipped, and broken UTF-8 is replaced."""


def load_text_tokenizer(directory: str | Path) -> TextTokenizer:
    """Load BAAI's `emu3.tiktoken` or a Hugging Face `tokenizer.json`, whichever the checkpoint has.

    Raises CheckpointError if the directory has neither, or if the files are malformed.
    """
    directory = local_directory(directory)
    if (directory / RANKS_FILE).is_file():
        return TiktokenTokenizer.from_directory(directory)
    if (directory / JSON_FILE).is_file():
        return HuggingFaceTokenizer.from_directory(directory)
    raise CheckpointError(f"{directory}: expected a text tokenizer, {RANKS_FILE} or {JSON_FILE}; found neither")


class TiktokenTokenizer:
    """BAAI's vocabulary: the ranks, then the control tokens, then the lines of the vision file."""

    def __init__(self, ranks: dict[bytes, int], vision_surfaces: Sequence[str], fingerprint: str, where: str):
        import tiktoken

        special = {surface: len(ranks) + i for i, surface in enumerate((*CONTROL_SURFACES, *vision_surfaces))}
        self.layout = TokenLayout.from_surfaces(special, where, with_optional=True)
        self.vocab_size = len(ranks) + len(special)
        self.fingerprint = fingerprint
        self._text_ids = len(ranks)
        self._encoding = tiktoken.Encoding("emu3", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def from_directory(cls, directory: Path) -> TiktokenTokenizer:
        """Raises CheckpointError for a missing vision file, or a line that is not a token and its rank."""
        vision = directory / VISION_FILE
        if not vision.is_file():
            raise CheckpointError(f"{vision}: missing; it is published with {RANKS_FILE}")
        try:
            lines = read_small_file(vision, error=CheckpointError).decode().splitlines()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{vision}: not UTF-8: {error}") from error
        surfaces = [line.strip() for line in lines if line.strip()]
        ranks_file = directory / RANKS_FILE
        return cls(_read_ranks(ranks_file), surfaces, _fingerprint(ranks_file, vision), str(directory))

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, token_ids: Iterable[int]) -> str:
        return self._encoding.decode([i for i in token_ids if 0 <= i < self._text_ids])


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(read_small_file(path, error=CheckpointError).splitlines(), 1):
        if line.strip():
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error) as error:
                raise CheckpointError(
                    f"{path}: line {number}: expected a base64 token and its rank: {error}"
                ) from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise CheckpointError(
            f"{path}: expected ranks from 0 without gaps, including the 256 bytes; got {len(ranks)} ranks"
        )
    return ranks


class HuggingFaceTokenizer:
    """A `tokenizer.json`, read without its added tokens so that their surface forms in text stay text."""

    def __init__(self, described: Mapping[str, Any], fingerprint: str, where: str):
        from tokenizers import Tokenizer

        try:
            added = {str(token["content"]): int(token["id"]) for token in described.get("added_tokens") or []}
            vocabulary = described["model"].get("vocab", {})
            ids = {**vocabulary, **added} if isinstance(vocabulary, dict) else added
            if not all(isinstance(i, int) and 0 <= i < MAX_TOKEN_ID for i in ids.values()):
                raise ValueError(f"ids: expected integers from 0 below {MAX_TOKEN_ID}")
            if (merges := len(described["model"].get("merges") or ())) > MAX_MERGES_PER_TOKEN * len(ids):
                raise ValueError(f"{merges} merges for {len(ids)} tokens")
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{where}: expected a tokenizer.json with a model and added tokens: {error!r:.200}"
            ) from error
        self.layout = TokenLayout.from_surfaces(ids, where, with_optional=True)
        self.vocab_size = max(ids.values()) + 1
        self.fingerprint = fingerprint
        self._skipped = set(added.values()) | set(self.layout.control_ids.values())
        bare = {**described, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(bare))
        except BaseException as error:  # the library raises no narrower class than Exception, and panics by another
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise CheckpointError(
                f"{where}: the tokenizers library cannot read this tokenizer.json: {error!s:.200}"
            ) from error

    @classmethod
    def from_directory(cls, directory: Path) -> HuggingFaceTokenizer:
        path = directory / JSON_FILE
        content = read_small_file(path, error=CheckpointError)
        if (values := content.count(b",")) > MAX_JSON_VALUES:
            raise CheckpointError(f"{path}: {values} values, expected at most {MAX_JSON_VALUES}")
        described = parse_json_object(content, str(path), CheckpointError)
        return cls(described, _fingerprint(path), str(path))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Iterable[int]) -> str:
        text_ids = [i for i in token_ids if i not in self._skipped and not self.layout.is_visual(i)]
        return str(self._tokenizer.decode(text_ids, skip_special_tokens=False))


def _fingerprint(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
