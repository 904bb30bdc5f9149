"""What a worker needs to know about the products of its job: images and videos, or answers of text and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lm_stage.generate.prompts import Prompt
from shared.dataset.plan import PlannedInput, Size
from shared.dataset.rows import SequenceRecord

if TYPE_CHECKING:
    from lm_stage.inference.continuous_batch import ContinuousBatch
    from lm_stage.language_model import LanguageModel

Request = TypeVar("Request")
Running = TypeVar("Running", contravariant=True)
Result = TypeVar("Result")


class Product(Protocol[Request, Running, Result]):
    """Requests for a generator, its sequences, and what they result in. The journal holds codes or tokens."""

    journal_dtype: str

    def generator(self, model: LanguageModel, size: Size) -> ContinuousBatch[Any, Any]:
        """Return a generator for the prompts of one planned size."""

    def request(self, prompt: Prompt, journaled: Sequence[int]) -> Request:
        """Return the request of a prompt, which continues what the journal holds."""

    def finished(self, request: Request) -> Result | None:
        """Return the result of a request that the journal completes, None for any other."""

    def result(self, sequence: Running) -> Result:
        """Return the result of a finished sequence."""

    def to_journal(self, sequence: Running) -> list[int]:
        """Return all that the journal keeps of a sequence so far."""

    def is_due(self, sequence: Running, journaled: int) -> bool:
        """Whether a sequence has as much more than is journaled as an entry of the journal holds."""

    def progress(self, sequence: Running) -> int:
        """Return how far a sequence is, in units of the progress bar."""

    def record(self, item: PlannedInput, prompt: Prompt, result: Result) -> SequenceRecord:
        """Turn the result of a prompt, which `item` describes in the plan, into a row."""
