"""Updates of texts: later ones win, readers see whole updates only, and damage is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.dataset import texts
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader, RowReader
from shared.dataset.rows import from_record_batch
from shared.dataset.texts import RowTexts
from shared.errors import DatasetError
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.maintenance.summary import summarize
from shared.maintenance.sweep import sweep
from shared.maintenance.verify import verify_dataset
from tests.support import handmade
from tests.support.flip import flip_bit

KEYS = ["one", "two", "three"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(handmade.make(tmp_path / "dataset", KEYS).root)


def update(dataset: Dataset, *wanted: RowTexts) -> int:
    batches = (batch for record in dataset.commit_records() if record.rows for batch in dataset.batches(record))
    rows = {row.key: row for batch in batches for row in from_record_batch(batch)}
    encoded = [RowTexts(texts.key, rows[texts.key].text, rows[texts.key].extra_json) for texts in wanted]
    return dataset.texts.append(list(zip(encoded, wanted)))


def texts_of(root: Path) -> dict[str, str | None]:
    """Return the caption of each key, on which all readers must agree."""
    dataset = Dataset.open(root)
    by_key, rows = KeyReader(dataset), RowReader(dataset)
    found = {row.key: row.text for record in dataset.commit_records() for row in dataset.rows(record)}
    assert found == {key: by_key.row(key).text for key in by_key}
    assert found == dict(zip(rows.column("key"), rows.column("text")))
    return found


def test_the_last_update_of_a_key_counts(dataset: Dataset) -> None:
    before = texts_of(dataset.root)
    assert update(dataset, RowTexts("one", "first", None), RowTexts("two", None, '{"a":1}')) == 2
    assert update(dataset, RowTexts("one", "second", None), RowTexts("two", None, '{"a":1}')) == 1
    assert update(dataset, RowTexts("one", "second", None)) == 0
    assert texts_of(dataset.root) == {**before, "one": "second", "two": None}
    assert len(Dataset(dataset.root).texts) == 2


def test_an_update_of_several_batches_is_read_whole(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_ROWS_PER_BATCH", 2)
    wanted = {key: f"new {key}" for key in KEYS}
    assert update(dataset, *(RowTexts(key, text, None) for key, text in wanted.items())) == 3
    assert texts_of(dataset.root) == wanted


def test_files_of_other_systems_beside_the_updates_are_ignored(dataset: Dataset) -> None:
    update(dataset, RowTexts("one", "new", None))
    (dataset.text_updates / "._texts-0001.json").write_bytes(b"\0")
    assert texts_of(dataset.root)["one"] == "new"


def test_the_digest_is_that_of_a_dataset_with_these_texts_from_the_start(dataset: Dataset, tmp_path: Path) -> None:
    other = Dataset.open(handmade.make(tmp_path / "other", KEYS).root)
    row = next(dataset.rows(dataset.record(0)))
    update(dataset, RowTexts(row.key, "changed", row.extra_json))
    changed = Dataset.open(dataset.root)
    assert next(changed.rows(changed.record(0))).digest() == replace(row, text="changed").digest()
    assert verify_dataset(changed).digest != verify_dataset(other).digest
    update(changed, RowTexts(row.key, row.text, row.extra_json))
    assert verify_dataset(changed).digest == verify_dataset(other).digest


def test_sealing_keeps_updates(dataset: Dataset) -> None:
    update(dataset, RowTexts("one", "changed", None))
    expected = texts_of(dataset.root), verify_dataset(Dataset.open(dataset.root)).digest
    seal(SealOptions(str(dataset.root)))
    report = verify_dataset(Dataset.open(dataset.root))
    assert (texts_of(dataset.root), report.digest) == expected
    assert report.problems == []


def test_captions_are_counted_after_updates(dataset: Dataset) -> None:
    update(dataset, RowTexts("one", None, None))
    captions = [text for text in texts_of(dataset.root).values() if text is not None]
    assert summarize(Dataset.open(dataset.root)).captions == len(captions)


def test_two_jobs_that_write_the_same_update_write_it_once(dataset: Dataset) -> None:
    other, changed = Dataset.open(dataset.root), RowTexts("one", "changed", None)
    assert (len(other.texts), update(dataset, changed), update(other, changed)) == (0, 1, 0)
    assert update(other, RowTexts("two", "also", None)) == 1
    assert texts_of(dataset.root)["one"] == "changed"


def test_a_killed_update_leaves_nothing_that_is_read(dataset: Dataset) -> None:
    before = texts_of(dataset.root)
    update(dataset, RowTexts("one", "changed", None))
    (dataset.text_updates / "texts-0001.json").unlink()
    assert texts_of(dataset.root) == before
    sweep(dataset)
    assert list(dataset.text_updates.iterdir()) == []


@pytest.mark.parametrize("loss", ["lost", "damaged"])
def test_texts_are_kept_until_their_record_is_restored(dataset: Dataset, loss: str) -> None:
    update(dataset, RowTexts("one", "changed", None))
    update(dataset, RowTexts("two", "changed too", None))
    current, record = texts_of(dataset.root), dataset.text_updates / "texts-0001.json"
    content = record.read_bytes()
    if loss == "lost":
        record.unlink()
    else:
        flip_bit(record, b"texts-0001")
    sweep(dataset)
    with pytest.raises(DatasetError, match=r"texts-0001\.json"):
        texts_of(dataset.root)
    record.write_bytes(content)
    assert texts_of(dataset.root) == current


def test_damaged_lost_and_foreign_updates_are_errors(dataset: Dataset, tmp_path: Path) -> None:
    update(dataset, RowTexts("one", "changed", None))
    update(dataset, RowTexts("one", "again", None))
    (file,) = dataset.text_updates.glob("texts-0001.*.arrow")
    content = file.read_bytes()
    flip_bit(file, b"changed")
    with pytest.raises(DatasetError, match="damaged"):
        texts_of(dataset.root)
    assert "damaged" in verify_dataset(Dataset.open(dataset.root)).problems[0]
    file.write_bytes(content)
    (dataset.text_updates / "texts-0001.json").rename(tmp_path / "lost")
    with pytest.raises(DatasetError, match=r"texts-0001\.json: missing"):
        texts_of(dataset.root)
    (tmp_path / "lost").rename(dataset.text_updates / "texts-0001.json")
    other = handmade.make(tmp_path / "other", ["another"]).root
    dataset.text_updates.rename(other / "texts")
    with pytest.raises(DatasetError, match="another plan"):
        texts_of(other)
