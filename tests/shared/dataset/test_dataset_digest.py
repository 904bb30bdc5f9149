"""The digest of a dataset depends on its rows and fingerprints, not on order or files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.rows import (
    CodeRecord,
    DatasetDigest,
)
from tests.support import small_datasets
from tests.support.handmade import record

records = st.builds(small_datasets.image, st.integers(0, 100), st.text(st.characters(blacklist_categories=["Cs"])))


@given(st.lists(records, max_size=6), st.randoms())
def test_dataset_digest_ignores_order_and_cuts(rows: list[CodeRecord], random: object) -> None:
    whole, cut = DatasetDigest({"codec": "x"}), DatasetDigest({"codec": "x"})
    whole.add(row.digest() for row in rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for row in shuffled:
        cut.add([row.digest()])
    assert whole.hexdigest() == cut.hexdigest()
    assert len(whole.hexdigest()) == 64


def test_digest_depends_on_rows_and_fingerprints() -> None:
    digests = set()
    for fingerprints, count in (({"codec": "x"}, 1), ({"codec": "y"}, 1), ({"codec": "x"}, 2), ({"codec": "x"}, 0)):
        digest = DatasetDigest(fingerprints)
        digest.add([record(0, "a").digest()] * count)
        digests.add(digest.hexdigest())
    assert len(digests) == 4
