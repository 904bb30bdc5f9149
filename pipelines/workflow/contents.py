"""The content of a step's inputs, which is read once their sizes or times differ: a copy or a touch is no change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lm_stage.generate.options import GenerateOptions
from pipelines.workflow.inputs import folder_walk
from pipelines.workflow.step import Input, Step
from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.errors import RelayError
from shared.storage.digests import digest_of
from shared.storage.paths import sha256_of
from vq_stage.encode.options import EncodeOptions
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.open_source import expanded

COMPARED_INPUTS = {"encode": "source", "generate": "prompts"}  # with the rows of the dataset that the step wrote
ROW_FOLDERS = ("parts", "shards")  # of a dataset: its records and manifest have the digests of these files
Files = list[tuple[str, str]]  # names and SHA-256


def contents_digest(step: Step, external: Collection[Input], read: Callable[[str], Files]) -> str:
    """Return a digest of the bytes of a step's local inputs, except the one that `compare` compares.

    `external` are the inputs that no step writes; `read` is `read_files`, or remembers what that returned.
    """
    chosen = [one for one in external if COMPARED_INPUTS.get(step.command) != one.option]
    return digest_of([(one.option, *file) for one in chosen for file in read(one.location)])


def read_files(location: str) -> Files:
    """Return the name of every file with its SHA-256, in order; nothing for remote inputs.

    All files are read, except for those with the rows of a dataset.
    """
    top = Path(location)
    if "://" in location or location == "-":
        return []
    if top.exists():
        return list(_files_of(top))
    return [(f"{found}/{name}", sha256) for found in expanded(location) for name, sha256 in _files_of(found)]


def _files_of(top: Path) -> Iterator[tuple[str, str]]:
    if top.is_file():
        yield top.name, sha256_of(top)
    if not top.is_dir():
        return
    is_dataset = (top / "plan.arrow").exists()
    for folder in folder_walk(top, ListingReport()).folders():
        for name in folder.names:
            path = top / folder.prefix / name
            is_rows = is_dataset and path.suffix == ".arrow" and path.parent.name in ROW_FOLDERS
            if not is_rows and name != "events.jsonl" and path.is_file():
                yield folder.prefix + name, sha256_of(path)


def compare(step: Step) -> Change:
    """Compare the inputs of a step with what the dataset that it wrote was made from.

    Only `encode` and `generate` continue a dataset whose inputs have grown. An input that cannot be compared counts
    as changed.
    """
    from lm_stage.generate.plan_updates import compare_prompts
    from lm_stage.generate.prompt_files import list_prompts
    from vq_stage.encode.source_comparison import compare_source

    try:
        if isinstance(step.options, EncodeOptions):
            return compare_source(step.options)
        if isinstance(step.options, GenerateOptions):
            prompts = list_prompts(step.options.prompts, step.options.defaults())
            return compare_prompts(Dataset.open(step.options.dataset), prompts)
    except RelayError:
        return Change.CHANGED
    return Change.NONE
