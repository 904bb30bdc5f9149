"""The export of token sequences for an engine that trains on many machines: the rows and samples of `emu3 sft`.

The path of one sample: its row (data/shuffle.py) → its sequence (data/sequences.py) → megatron.py or mindrecord.py.
The folder appears under its name when it is complete. Equal inputs and settings give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from lm_stage.data.batch import row_sequences
from lm_stage.data.job_arguments import open_mixture, open_model, output_directory
from lm_stage.data.mixture import Mixture, common_codec
from lm_stage.data.sequences import TrainingSequence
from lm_stage.data.skipped import LEFT_OUT, SkippedSamples
from lm_stage.export.manifest import MANIFEST_NAME, SequenceManifest, described_files
from lm_stage.export.megatron import MegatronFiles
from lm_stage.export.mindrecord import MindRecordFile
from lm_stage.export.options import SequenceExportOptions, SequenceExportResult
from lm_stage.export.rows import most_samples_in_a_row, planned_rows, planned_samples
from lm_stage.model.model_directory import ModelDirectory
from shared.errors import ConfigMismatchError, DatasetError, Interrupted, UsageError
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import remove_stale_directories, replaced_directory, write_file
from shared.storage.digests import settings_diff
from shared.storage.paths import names_in


class SequenceFiles(Protocol):
    """The files of an export while they are written; `types` are those of their elements."""

    types: dict[str, str]
    documents: int
    tokens: int

    def add(self, sequences: Sequence[TrainingSequence]) -> None:
        """Append the samples of a row; a row without any adds nothing."""

    def close(self, *, is_complete: bool) -> None:
        """Close the files; those that are not complete are about to be removed."""


def export_sequences(options: SequenceExportOptions) -> SequenceExportResult:
    """Export the sequences of a mixture; a folder that already holds them, intact, is left as it is.

    Raises UsageError, before any file is written, for settings that do not fit the model, for a folder that holds
    something else, and (ConfigMismatchError) for other sequences or codecs; DatasetError for a damaged sample, unless
    it may be skipped; Interrupted after a signal, which leaves nothing.
    """
    out = _checked_output(options.out)
    model = open_model(options)
    mixture = open_mixture(options, options.entries, model)
    settings = _settings(options, model, mixture)
    remove_stale_directories(out)
    if found := _finished(out, settings):
        return found.result(is_new=False)
    with stop_on_signals() as stop, replaced_directory(out) as folder:
        manifest = _write(folder, options, settings, mixture, stop)
        write_file(folder / MANIFEST_NAME, manifest.to_json())
    return manifest.result(is_new=True)


def _checked_output(location: str) -> Path:
    """Return the folder to write. Raises UsageError if it holds anything but an export of sequences."""
    out = output_directory(location, "OUT")
    if names_in(out) and not (out / MANIFEST_NAME).is_file():
        raise UsageError(f"{location}: contains files but no {MANIFEST_NAME} of an export; choose another OUT")
    return out


def _settings(options: SequenceExportOptions, model: ModelDirectory, mixture: Mixture) -> dict[str, Any]:
    """Return everything that determines the files. Raises ConfigMismatchError if the codecs differ."""
    return {
        **options.recorded(),
        "mixture": mixture.fingerprints(),
        "vocabulary_size": model.config.vocab_size,
        "token_ids": model.layout.to_dict(),
        "text_tokenizer": model.text_tokenizer.fingerprint,
        "codec": common_codec(model.codec, [mixture]).fingerprint,
    }


def _finished(out: Path, settings: dict[str, Any]) -> SequenceManifest | None:
    """Return the manifest of the same export if it is complete; None if it is missing, damaged, or lacks samples.

    Samples that were damaged may have been repaired since, which no setting shows.
    """
    found = SequenceManifest.read(out)
    if found is None:
        return None
    if diff := settings_diff(found.settings, settings):
        raise ConfigMismatchError(
            f"{out} holds sequences of different settings:\n  " + "\n  ".join(diff) + "\nuse those, or another OUT"
        )
    return found if not found.counts["damaged"] and found.is_intact(out) else None


def _write(
    folder: Path, options: SequenceExportOptions, settings: dict[str, Any], mixture: Mixture, stop: StopFlag
) -> SequenceManifest:
    """Write all files but the manifest, which is returned."""
    skipped = SkippedSamples(folder, 0, [mixture])
    for line in skipped.summary():
        tqdm.write(line, file=sys.stderr)
    files = _open_files(folder, options, mixture, settings["vocabulary_size"])
    counts = _add_rows(files, options, mixture, skipped, stop)
    skipped.write()
    skipped.path.unlink(missing_ok=True)  # its lines are in the list now
    counts |= {"documents": files.documents, "tokens": files.tokens}
    counts |= {"too_long": skipped.too_long, "damaged": len(skipped.reasons)}
    return SequenceManifest(settings, files.types, counts, described_files(folder, LEFT_OUT))


def _open_files(folder: Path, options: SequenceExportOptions, mixture: Mixture, vocabulary_size: int) -> SequenceFiles:
    pad = mixture.builder.layout.pad
    if options.format == "mindrecord":
        return MindRecordFile(folder, options.seq_length, most_samples_in_a_row(mixture, options), pad)
    row_length = options.seq_length if options.has_rows else None
    return MegatronFiles(folder, vocabulary_size, options.weights, row_length, pad)


def _add_rows(
    files: SequenceFiles, options: SequenceExportOptions, mixture: Mixture, skipped: SkippedSamples, stop: StopFlag
) -> dict[str, int]:
    """Write all rows; return the number of samples and of supervised tokens."""
    on_damaged = skipped.add_damaged if options.skip_damaged else None
    samples = supervised = 0
    is_complete = False
    try:
        with tqdm(total=planned_samples(mixture, options), desc="export", unit="sample", disable=None) as bar:
            for row in planned_rows(mixture, options):
                if stop.is_set():
                    raise Interrupted(f"stopped by {stop.signal_name}: {options.out} was not written; start again")
                sequences = list(row_sequences(row, mixture, on_damaged))
                files.add(sequences)
                samples += len(sequences)
                supervised += sum(int(np.count_nonzero(sequence.weights)) for sequence in sequences)
                bar.update(len(row))
        if not samples:
            raise DatasetError(f"{options.out}: every sample is damaged")
        is_complete = True
    finally:
        files.close(is_complete=is_complete)
    return {"samples": samples, "supervised": supervised}
