"""Comparison of a source with the dataset that was encoded from it, by the content of every input."""

from __future__ import annotations

from tqdm import tqdm

from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.dataset.known_keys import KnownKeys
from shared.errors import RefusedInput
from shared.jobs.prefetch import prefetch_map
from vq_stage.encode.options import EncodeOptions
from vq_stage.sources.media_source import MediaItem, MediaSource, frame_rate
from vq_stage.sources.media_types import is_frame_folder
from vq_stage.sources.open_source import open_source


def compare_source(options: EncodeOptions) -> Change:
    """Read the whole source and compare it with the rows of the dataset: their URI, texts and SHA-256.

    The times of files are ignored. An input without a row, because it was refused or is not encoded yet, only has to
    exist.
    """
    source = open_source(options.source, options.image_root, options.key)
    encoded = EncodedContents(Dataset.open(options.dataset))

    def compared(item: MediaItem) -> tuple[str, Change]:
        try:
            return item.uri, encoded.change(item, source)
        except RefusedInput:
            return item.uri, Change.CHANGED

    found, changes = KnownKeys(), set[Change]()
    threads = options.reader_threads
    items = prefetch_map(compared, source, threads, 64 * threads)
    for uri, change in tqdm(items, "compare", unit="input", disable=None):
        if change is Change.CHANGED:
            return change
        changes.add(change)
        found.is_new(uri)
    if not all(map(found.has, encoded.planned_uris())):
        return Change.CHANGED
    return next((one for one in (Change.TEXTS, Change.GROWN) if one in changes), Change.NONE)


class EncodedContents:
    """The URIs of a dataset's plan, and the digests of what its rows were encoded from."""

    def __init__(self, dataset: Dataset):
        self.planned_uris = dataset.plan().uris
        self._planned, self._with_rows = KnownKeys(self.planned_uris()), KnownKeys()
        self._rows, self._contents = KnownKeys(), KnownKeys()
        for record in dataset.commit_records():
            for batch in map(dataset.texts.apply, dataset.batches(record)):
                columns = (batch[name].to_pylist() for name in ("src_uri", "text", "extra_json", "src_sha256"))
                for uri, text, extra_json, sha256 in zip(*columns):
                    self._with_rows.is_new(uri)
                    self._rows.is_new(repr((uri, text, extra_json, sha256)))
                    self._contents.is_new(_content(uri, extra_json, sha256))

    def change(self, item: MediaItem, source: MediaSource) -> Change:
        """Compare an input with its rows; its content is read only if it has any. Raises RefusedInput."""
        if not self._planned.has(item.uri):
            return Change.GROWN
        if not self._with_rows.has(item.uri):
            return Change.NONE
        sha256 = source.sha256(item.uri, item.locator)
        if self._rows.has(repr((item.uri, item.text, item.extra_json, sha256))):
            return Change.NONE
        return Change.TEXTS if self._contents.has(_content(item.uri, item.extra_json, sha256)) else Change.CHANGED


def _content(uri: str, extra_json: str | None, sha256: bytes) -> str:
    """Return what the codes of an input depend on. A folder of frames is sampled by the rate among its labels."""
    return repr((uri, frame_rate(extra_json) if is_frame_folder(uri) else None, sha256))
