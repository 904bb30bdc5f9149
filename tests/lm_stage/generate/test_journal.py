"""The journal after every way in which a job can end: it holds a prefix of what was written, and can be continued."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.generate.journal import Journal
from shared.codec import MAX_CODEBOOK_SIZE

IDENTITY = {"plan_sha256": "ab" * 32, "numerics": {"device": "CPU 8 cores", "slots": 4}}
ADDITIONS = [(7, [0, 65535, 3]), (2, [9]), (7, [0, 65535, 3, 10, 13, 2]), (2, [9, 8, 7])]
WHOLE = {7: [0, 65535, 3, 10, 13, 2], 2: [9, 8, 7]}
States = list[tuple[int, dict[int, list[int]]]]


def read(path: Path, identity: dict[str, Any] = IDENTITY, code_dtype: str = "uint16") -> dict[int, list[int]]:
    journal = Journal(path, identity, code_dtype)
    journal.close()
    return journal.codes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "part-000000.journal"


@pytest.fixture
def states(path: Path) -> States:
    """The size of the journal at `path` and the codes in it, after the header and after each addition."""
    journal = Journal(path, IDENTITY, "uint16")
    journal.sync()
    states: States = [(path.stat().st_size, {})]
    for src_index, codes in ADDITIONS:
        journal.add(src_index, codes)
        journal.sync()
        states.append((path.stat().st_size, {key: list(value) for key, value in journal.codes.items()}))
    journal.close()
    assert states[-1][1] == WHOLE
    return states


def can_be_completed(path: Path) -> bool:
    """Add all codes, close the journal and return whether it then holds them all."""
    journal = Journal(path, IDENTITY, "uint16")
    for src_index, codes in WHOLE.items():
        journal.add(src_index, codes)
    journal.close()
    return read(path) == WHOLE


@given(st.data(), st.sampled_from([("uint16", 65_535), ("uint32", MAX_CODEBOOK_SIZE - 1)]))
def test_codes_come_back_however_often_the_journal_is_opened(data: st.DataObject, codes: tuple[str, int]) -> None:
    code_dtype, largest = codes
    new_codes = st.lists(st.integers(0, largest), max_size=5)
    additions = data.draw(st.lists(st.tuples(st.integers(0, 3) | st.just(2**40), new_codes, st.booleans())))
    with tempfile.TemporaryDirectory() as folder:
        path, written = Path(folder) / "journal", dict[int, list[int]]()
        journal = Journal(path, IDENTITY, code_dtype)
        for src_index, new, is_opened_again in additions:
            so_far = written.get(src_index, []) + new
            journal.add(src_index, so_far)
            if so_far:
                written[src_index] = so_far
            assert journal.codes == written
            if is_opened_again:
                journal.close()
                journal = Journal(path, IDENTITY, code_dtype)
                assert journal.codes == written
        journal.close()
        assert read(path, code_dtype=code_dtype) == written


def test_codes_are_little_endian_in_the_type_of_the_codec(path: Path) -> None:
    for code_dtype, stored in (("uint16", b"\x01\0\xff\xff"), ("uint32", b"\x01\0\0\0\xff\xff\0\0")):
        journal = Journal(path, IDENTITY, code_dtype)
        journal.add(0, [1, 65_535])
        journal.close()
        assert base64.b64encode(stored) in path.read_bytes()
        path.unlink()


def test_only_new_codes_are_written(path: Path) -> None:
    journal = Journal(path, IDENTITY, "uint16")
    journal.add(0, list(range(1000)))
    journal.sync()
    size = path.stat().st_size
    for known in (1000, 10, 0):
        journal.add(0, list(range(known)))
    journal.sync()
    assert path.stat().st_size == size
    journal.add(0, list(range(1001)))
    journal.close()
    assert size < path.stat().st_size < size + 80
    assert read(path) == {0: list(range(1001))}


def test_synced_codes_survive_a_kill(path: Path, tmp_path: Path) -> None:
    journal = Journal(path, IDENTITY, "uint16")
    journal.add(3, [1, 2])
    journal.sync()
    as_after_a_kill = tmp_path / "copy"
    shutil.copyfile(path, as_after_a_kill)
    journal.close()
    assert read(as_after_a_kill) == {3: [1, 2]}


def test_cut_at_any_byte_it_holds_a_prefix_and_can_be_completed(path: Path, states: States) -> None:
    content = path.read_bytes()
    assert len(content) == states[-1][0] > 300
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        expected = [codes for size, codes in states if size <= cut]
        assert read(path) == (expected[-1] if expected else {}), f"cut at {cut}"
        assert can_be_completed(path), f"cut at {cut}"


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(len(content)):
        for mask in (1 << offset % 8, 0xFF):
            damaged = bytearray(content)
            damaged[offset] ^= mask
            yield offset, bytes(damaged)


def test_a_flipped_byte_ends_it_at_the_line_before(path: Path, states: States) -> None:
    for offset, damaged in flipped(path.read_bytes()):
        path.write_bytes(damaged)
        expected = [codes for size, codes in states if size <= offset]
        assert read(path) == (expected[-1] if expected else {}), f"byte {offset}"
        assert can_be_completed(path), f"byte {offset}"


@pytest.mark.parametrize("junk", [b"\0" * 512, b"\n", b"\n\n\n", b"{}\n", b"00000000\n", b"\r\n", b"\xff\xfe\n"])
def test_a_malformed_line_ends_it(path: Path, states: States, junk: bytes) -> None:
    content = path.read_bytes()
    for size, codes in states:
        path.write_bytes(content[:size] + junk + content[size:])
        assert read(path) == codes
        assert can_be_completed(path)


def test_a_line_lost_in_the_middle_leaves_no_gap(path: Path, states: States) -> None:
    """The second part of the codes of image 7 is dropped if the first is missing."""
    content, (begin, end) = path.read_bytes(), (states[0][0], states[1][0])
    path.write_bytes(content[:begin] + content[end:])
    assert read(path).get(7, []) == []
    assert can_be_completed(path)


@pytest.mark.parametrize(
    "identity",
    [
        {**IDENTITY, "plan_sha256": "cd" * 32},
        {**IDENTITY, "numerics": {"device": "CPU 8 cores", "slots": 5}},
        {**IDENTITY, "numerics": {}},
        {**IDENTITY, "more": 1},
        {},
    ],
)
def test_the_journal_of_another_plan_or_numerics_is_replaced(
    path: Path, states: States, identity: dict[str, Any]
) -> None:
    journal = Journal(path, identity, "uint16")
    assert journal.codes == {}
    journal.add(2, [4])
    journal.close()
    assert read(path, identity) == {2: [4]}
    assert read(path) == {}, "nothing of the first remains"


def test_the_order_of_the_identity_does_not_matter(path: Path, states: States) -> None:
    assert read(path, dict(reversed(IDENTITY.items()))) == WHOLE


def test_a_removed_journal_is_gone(path: Path) -> None:
    journal = Journal(path, IDENTITY, "uint16")
    journal.add(0, [1])
    journal.remove()
    assert list(path.parent.iterdir()) == []
    journal.remove()
    assert read(path) == {}
