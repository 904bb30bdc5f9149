"""Lines of plain text, and of questions with answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage.data.sequences import SequenceBuilder
from lm_stage.text.templates import CHAT
from shared.errors import UsageError
from tests.support.sft_samples import (
    assert_lengths_are_true,
    opened,
    write_lines,
)


def test_lengths_match_the_sequences(tmp_path: Path, builder: SequenceBuilder) -> None:
    lines = [{"text": "a red apple"}, {"question": "what?", "answer": "a pear"}, {"text": "é"}]
    samples = opened(write_lines(tmp_path / "T.JSONL", *lines, {"question": "", "answer": "b"}), builder, "text")
    assert_lengths_are_true(samples)


def test_lines_end_at_newlines_only(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"text": "a\u2028b"}\r\n \n{"question": "q", "answer": "c", "source": "x"}'.encode())
    samples = opened(path, builder, "text")
    question, answer = builder.encode(CHAT.question_text("q")), builder.encode("c")
    expected = [builder.text(builder.encode("a\u2028b")), builder.conversation([(question, answer)], None)]
    assert [samples.sequence(i, False).token_ids.tolist() for i in range(2)] == [e.token_ids.tolist() for e in expected]
    assert samples.keys == ["t.jsonl#1", "t.jsonl#3"], "numbers are those of the lines"


@pytest.mark.parametrize(
    "line",
    [
        b"nope",
        b"5",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"text": "a"',
        b'{"text": "\xff"}',
        b'{"text": ""}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": ["a"]}',
        b'{"answer": "a"}',
        b'{"question": "q"}',
        b'{"question": "q", "text": "a"}',
        b'{"question": "q", "answer": ""}',
        b'{"question": "q", "answer": 5}',
        b'{"question": 5, "answer": "a"}',
    ],
)
def test_a_bad_line_is_named(line: bytes, tmp_path: Path, builder: SequenceBuilder) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(UsageError, match=rf"{path}: line 3: "):
        opened(path, builder, "text")


def test_null_is_absent(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "question": null, "answer": null}\n{"text": null, "question": "q", "answer": "b"}\n')
    assert opened(path, builder, "text").has_question == [False, True]
