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
from vq_stage.sources.media_source import MediaItem, MediaSource


def compare_source(options: EncodeOptions) -> Change:
    """Read the whole source and compare it with the rows of the dataset: their URI, texts and SHA-256.

    The times of files are ignored. An input without a row, because it was refused or is not encoded yet, only has to
    exist. Other texts are a change, unless `update_texts` is set: then they are growth.
    """
    source, threads = Planner(options).source, options.reader_threads
    encoded = EncodedContents(Dataset.open(options.dataset), options.update_texts)

    def compared(item: MediaItem) -> tuple[str, Change]:
        try:
            return item.uri, encoded.change(item, source)
        except RefusedInput:
            return item.uri, Change.CHANGED

    found, has_grown = KnownKeys(), False
    items = prefetch_map(compared, source, threads, 64 * threads)
    for uri, change in tqdm(items, "compare", unit="input", disable=None):
        if change is Change.CHANGED:
            return change
        has_grown = has_grown or change is Change.GROWN
        found.is_new(uri)
    if not all(map(found.has, encoded.planned_uris())):
        return Change.CHANGED
    return Change.GROWN if has_grown else Change.NONE


class EncodedContents:
    """The URIs of a dataset's plan, and the digests of what its rows were encoded from."""

    def __init__(self, dataset: Dataset, may_update_texts: bool):
        self.planned_uris = dataset.plan().uris
        self._planned, self._with_rows = KnownKeys(self.planned_uris()), KnownKeys()
        self._rows, self._contents = KnownKeys(), KnownKeys()
        for record in dataset.commit_records():
            for batch in map(dataset.texts.apply, dataset.batches(record)):
                columns = (batch[name].to_pylist() for name in ("src_uri", "text", "extra_json", "src_sha256"))
                for uri, text, extra_json, sha256 in zip(*columns):
                    self._with_rows.is_new(uri)
                    self._rows.is_new(repr((uri, text, extra_json, sha256)))
                    if may_update_texts:
                        self._contents.is_new(repr((uri, sha256)))

    def change(self, item: MediaItem, source: MediaSource) -> Change:
        """Compare an input with its rows; its content is read only if it has any. Raises RefusedInput."""
        if not self._planned.has(item.uri):
            return Change.GROWN
        if not self._with_rows.has(item.uri):
            return Change.NONE
        sha256 = source.sha256(item.uri, item.locator)
        if self._rows.has(repr((item.uri, item.text, item.extra_json, sha256))):
            return Change.NONE
        return Change.GROWN if self._contents.has(repr((item.uri, sha256))) else Change.CHANGED
