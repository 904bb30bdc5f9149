"""Windows give the codes of sequential decoding, whatever the model, the batch and the interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lm_stage import SamplingOptions
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest, VisualSequence
from shared.tokens.grid_formats import EMU35_IMAGE, IMAGE, ROWS, UNIVLA, GridFormat
from shared.tokens.layout import TokenLayout
from tests.support.golden_language import TOP_50, GoldenLanguageModel
from tests.support.step_by_step import StandInCache

WINDOWS = (1, 2, 7, 16, 64)
LAYOUT = TokenLayout(
    pad=10, bos=11, eos=12, img=13, boi=14, eoi=15, eol=16, eof=17, first_visual_token=18, codebook_size=9
)
SINES = np.sin(np.outer(np.arange(100), np.arange(LAYOUT.codebook_size)))
SAMPLING = SamplingOptions(temperature=0.7, top_k=6, top_p=0.95)


def requests(grid_format: GridFormat, frames: int = 1, **changes: object) -> list[VisualRequest]:
    """Return five requests with prompts of different lengths, for grids of 3 × 4 codes."""
    made = (
        VisualRequest(str(i), [*range(i), 13], [1, 13], 3, 4, seed=i, frames=frames, grid_format=grid_format)
        for i in range(5)
    )
    return [replace(request, **changes) for request in made]  # type: ignore[arg-type]


class FewTokens(StandInCache):
    """Logits that depend on the last three tokens only, so that drafts are often right."""

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        self.tokens[row] = list(token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        logits_RLK = np.zeros((*token_ids_RL.shape, self.outputs), np.float32)
        for (row, column), token in np.ndenumerate(token_ids_RL):
            position = int(positions_RL[row, column])
            self.tokens[row][position:] = [int(token)]
            logits_RLK[row, column] = SINES[sum(self.tokens[row][-3:])]
        return logits_RLK


def generated(
    model: type[StandInCache], made: Sequence[VisualRequest], window: int, guidance: float = 3.0, batch_size: int = 3
) -> tuple[dict[str, list[int]], int]:
    """Return the codes by key, and the number of forwards."""
    rows = batch_size * (1 if guidance == 1 else 2)
    generator = VisualGenerator(model(rows, LAYOUT.codebook_size), LAYOUT, SAMPLING, guidance, window)
    steps, step = [], generator.step
    generator.step = lambda: steps.append(1) or step()  # type: ignore[method-assign, func-returns-value]
    return {sequence.request.key: sequence.codes for sequence in generator.run(made)}, len(steps)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("model", "grid_format", "frames"),
    [
        (StandInCache, IMAGE, 1),
        (FewTokens, IMAGE, 1),
        (FewTokens, EMU35_IMAGE, 1),
        (FewTokens, UNIVLA, 3),
        (FewTokens, ROWS, 2),
    ],
)
def test_every_window_gives_the_codes_of_sequential_decoding(
    model: type[StandInCache], guidance: float, grid_format: GridFormat, frames: int
) -> None:
    made = requests(grid_format, frames)
    expected, sequential = generated(model, made, 1, guidance)
    assert sorted(map(len, expected.values())) == [12 * frames] * 5
    for window, batch_size in ((2, 5), (7, 1), (16, 3), (64, 2)):
        found, forwards = generated(model, made, window, guidance, batch_size)
        assert found == expected, window
        if window == 16:
            assert forwards < sequential


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("is_replayed", [True, False])
def test_interrupted_sequences_are_continued(window: int, is_replayed: bool) -> None:
    """With given codes, replayed ones, and in another window than before."""
    prefix = (1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3)
    made = requests(UNIVLA, 3, prefix_codes=prefix)[:3]
    expected, sequential = generated(FewTokens, made, 1)
    for count in (0, 11, 12, 23):
        begun = [
            replace(request, codes=tuple(expected[request.key][:count]), is_replayed=is_replayed) for request in made
        ]
        found, forwards = generated(FewTokens, begun, window)
        assert found == expected
        assert forwards <= sequential
    if window == 64:
        assert forwards == 1, "replayed codes are known, so a window of them is right"


def test_known_tokens_cost_no_forward_of_their_own() -> None:
    """All codes but the last are given, and are replayed in as many windows as they fill."""
    for window, forwards in ((1, 12 + 2), (2, 7), (7, 2), (16, 1)):
        [sequence] = requests(IMAGE)[:1]
        given = replace(sequence, codes=(1,) * 11)
        assert generated(StandInCache, [given], window, batch_size=1)[1] == forwards


def test_drafts_are_final_up_to_the_first_wrong_one() -> None:
    sequence = VisualSequence(requests(IMAGE)[0], LAYOUT, window=4)
    assert sequence.window_tokens()[0] == LAYOUT.img
    assert sequence.is_sampled().tolist() == [True, True, True, True]
    sequence.tokens[1:5] = 20, 21, 22, 23
    sequence.accept(np.array([20, 25, 26, 24]))
    assert (sequence.offset, sequence.codes) == (2, [2, 7])
    assert sequence.window_tokens()[:3].tolist() == [25, 26, 24]
    assert sequence.is_sampled().tolist() == [True, True, False, True]  # EOL follows four codes
    sequence.accept(np.array([26, 24, 19]))
    assert (sequence.offset, sequence.codes) == (6, [2, 7, 8, 6, 1])


@pytest.mark.parametrize(("guidance", "windows"), [(1.0, (7,)), (3.0, (2, 16))])
def test_windows_of_the_model_give_the_same_codes(
    golden: GoldenLanguageModel, guidance: float, windows: Sequence[int]
) -> None:
    """No two candidates of these draws are closer than the rounding of the logits."""
    prompts = [golden.prompts[index % 3] for index in range(5)]
    expected = golden.generate(prompts, TOP_50, guidance, batch_size=2, seed=7)
    for window in windows:
        found = golden.generate(prompts, TOP_50, guidance, batch_size=2, window=window, seed=7)
        np.testing.assert_array_equal(found, expected)


def test_a_video_of_the_model_is_continued(golden: GoldenLanguageModel) -> None:
    request = golden.request(seed=5, frames=3, grid_format=UNIVLA, prefix_codes=tuple(range(12)))
    [unbroken] = golden.model.generate_codes([request], TOP_50, 3.0)
    interrupted = replace(request, codes=tuple(unbroken.reshape(-1)[12:26].tolist()))
    [found] = golden.model.generate_codes([interrupted], TOP_50, 3.0, window=7)
    np.testing.assert_array_equal(found, unbroken)
