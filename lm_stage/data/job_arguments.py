"""What every job over training sequences does with its arguments: opens model and mixture, and checks its directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import MixtureEntry, SequenceOptions
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.templates import video_format_named
from shared.errors import UsageError
from shared.storage.paths import check_link


def open_model(options: SequenceOptions) -> ModelDirectory:
    """Open the model whose vocabulary the sequences have. Raises UsageError if its positions are fewer than a row's."""
    model = ModelDirectory.open(options.model)
    positions = model.config.max_position_embeddings
    if options.seq_length > positions:
        raise UsageError(
            f"--seq-length: expected at most the {positions} positions of the model, got {options.seq_length}"
        )
    return model


def open_mixture(options: SequenceOptions, entries: Sequence[MixtureEntry], model: ModelDirectory) -> Mixture:
    """Open the samples of some entries."""
    video_format = video_format_named(options.video_template)
    renderer = SequenceRenderer(model.text_tokenizer, model.layout, video_format, model.prompting)
    builder = SequenceBuilder(renderer, options.weights)
    return Mixture(entries, builder, options.seq_length, options.skip_damaged)


def output_directory(location: str, name: str) -> Path:
    """Return the directory that a job writes, called `name` in its usage.

    Raises UsageError for what cannot be one: a URL, a dataset, which is probably the last of DATASETS, a file, or a
    broken link.
    """
    path = Path(location)
    if "://" in location:
        raise UsageError(f"{location}: expected a local directory for {name}, got a URL")
    if (path / "plan.arrow").exists() or ",task=" in location or ",weight=" in location:
        raise UsageError(f"{location}: expected DATASETS, then the directory {name}; this is a dataset")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{location}: expected a directory for {name}, got a file")
    check_link(path)
    return path
