"""The content of a step's inputs, which is read once their sizes or times differ: a copy or a touch is no change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lm_stage.generate.options import GenerateOptions
from pipelines.workflow.inputs import digest_of_all, folder_walk, listed_files
from pipelines.workflow.step import Input, Step
from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.errors import RelayError
from shared.storage.digests import digest_of
from shared.storage.paths import sha256_of
from vq_stage.encode.options import EncodeOptions
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.open_source import expanded

if TYPE_CHECKING:
    from lm_stage.generate.prompts import PromptDefaults

COMPARED_INPUTS = {"encode": "source", "generate": "prompts"}  # with the rows of the dataset that the step wrote
ROW_FOLDERS = ("parts", "shards")  # of a dataset: its records and manifest have the digests of these files
Files = list[tuple[str, str]]  # names and SHA-256


def contents_digest(step: Step, external: Collection[Input], read: Callable[[str, str | None], Files]) -> str:
    """Return a digest of the bytes of a step's local inputs, except the one that `compare` compares.

    `external` are the inputs that no step writes; `read` is `read_files`, or remembers what that returned.
    """
    chosen = [one for one in external if COMPARED_INPUTS.get(step.command) != one.option]
    return digest_of([(one.option, *file) for one in chosen for file in read(one.location, one.media_root)])


def read_files(location: str, media_root: str | None = None) -> Files:
    """Return the name of every file with its SHA-256, in order; nothing for remote inputs.

    All files are read, except for those with the rows of a dataset. `media_root` is the folder of what a list names.
    """
    files = [] if "://" in location or location == "-" else list(_files(location))
    is_list = media_root is not None and Path(location).is_file()
    total = None if is_list else sum(path.stat().st_size for _, path in files)
    with tqdm(desc=f"read {location}", total=total, unit="B", unit_scale=True, disable=None, delay=1) as bar:
        contents = [(name, _sha256(path, bar.update)) for name, path in files]
        if media_root is not None and is_list:
            media = (_sha256(path, bar.update) for path in listed_files(Path(location), media_root))
            contents.append(("media", digest_of_all(media)))
    return contents


def _sha256(path: Path, on_block: Callable[[int], object]) -> str:
    try:
        return sha256_of(path, on_block)
    except (OSError, ValueError):  # ValueError: a list may name anything
        return "unreadable"


def _files(location: str) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of every local file, except for those with the rows of a dataset."""
    top = Path(location)
    if top.exists():
        yield from _files_of(top)
    else:
        for found in expanded(location):
            yield from ((f"{found}/{name}", path) for name, path in _files_of(found))


def _files_of(top: Path) -> Iterator[tuple[str, Path]]:
    if top.is_file():
        yield top.name, top
    if not top.is_dir():
        return
    is_dataset = (top / "plan.arrow").exists()
    for folder in folder_walk(top, ListingReport()).folders():
        for name in folder.names:
            path = top / folder.prefix / name
            is_rows = is_dataset and path.suffix == ".arrow" and path.parent.name in ROW_FOLDERS
            if not is_rows and name != "events.jsonl" and path.is_file():
                yield folder.prefix + name, path


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
            dataset = Dataset.open(step.options.dataset)
            return compare_prompts(dataset, list_prompts(step.options.prompts, _prompt_defaults(step.options, dataset)))
    except RelayError:
        return Change.CHANGED
    return Change.NONE


def _prompt_defaults(options: GenerateOptions, dataset: Dataset) -> PromptDefaults:
    """Return the settings of prompts, as the job does; what the model consists of is compared elsewhere."""
    from lm_stage.generate.prompt_defaults import prompt_defaults
    from lm_stage.model.model_directory import ModelDirectory

    model = ModelDirectory.open(options.model, options.layout, prompting=options.prompting, verify=False)
    return prompt_defaults(options, model, dataset.plan().settings.codec)
