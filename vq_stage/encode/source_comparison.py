"""Comparison of a source with the dataset that was encoded from it, by the content of every input."""

from __future__ import annotations

from tqdm import tqdm

from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.dataset.plan_writer import KnownKeys
from shared.errors import RefusedInput
from shared.jobs.prefetch import prefetch_map
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.planner import Planner
from vq_stage.sources.media_source import MediaItem


def compare_source(options: EncodeOptions) -> Change:
    """Read the whole source and compare it with the rows of the dataset: their URI, texts and SHA-256.

    The times of files are ignored. An input without a row, because it was refused or is not encoded yet, only has to
    exist.
    """
    source, threads = Planner(options).source, options.reader_threads
    encoded = EncodedContents(Dataset.open(options.dataset))

    def is_same(item: MediaItem) -> bool | None:
        """Return None for an input that is not planned yet."""
        if not encoded.planned.has(item.uri):
            return None
        try:
            return not encoded.with_rows.has(item.uri) or encoded.has(item, source.sha256(item.uri, item.locator))
        except RefusedInput:
            return False

    def compared(item: MediaItem) -> tuple[str, bool | None]:
        return item.uri, is_same(item)

    found, has_new = KnownKeys(), False
    items = prefetch_map(compared, source, threads, 64 * threads)
    for uri, same in tqdm(items, "compare", unit="input", disable=None):
        if same is False:
            return Change.CHANGED
        has_new = has_new or same is None
        if same:
            found.is_new(uri)
    if not all(map(found.has, encoded.planned_uris())):
        return Change.CHANGED
    return Change.GROWN if has_new else Change.NONE


class EncodedContents:
    """The URIs of a dataset's plan, and the digests of what its rows were encoded from."""

    def __init__(self, dataset: Dataset):
        self.planned_uris = dataset.plan().uris
        self.planned, self.with_rows, self._contents = KnownKeys(self.planned_uris()), KnownKeys(), KnownKeys()
        for record in dataset.commit_records():
            for batch in map(dataset.texts.apply, dataset.batches(record)):
                columns = (batch[name].to_pylist() for name in ("src_uri", "text", "extra_json", "src_sha256"))
                for uri, text, extra_json, sha256 in zip(*columns):
                    self.with_rows.is_new(uri)
                    self._contents.is_new(repr((uri, text, extra_json, sha256)))

    def has(self, item: MediaItem, sha256: bytes) -> bool:
        """Whether a row was encoded from this content with these texts."""
        return self._contents.has(repr((item.uri, item.text, item.extra_json, sha256)))
