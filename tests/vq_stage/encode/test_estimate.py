"""The forecast of `emu3 plan` against numbers counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.report.text import forecast_text
from shared.codec import EMU3, EMU35
from shared.dataset.dataset import Dataset
from shared.errors import JobStoppedError
from shared.tokens.sequence_form import SequenceForm
from tests.support import handmade
from tests.support.small_sources import MemorySource, memory_source, movie, planner, png
from vq_stage.encode.estimate import forecast, measured_megapixels_per_s, sequence_length

FORM = SequenceForm()


def mixed() -> MemorySource:
    """Return two images of 2×3 codes, one with a caption of eight bytes; a clip of 4×2×3; one refused."""
    source = MemorySource(Path("memory"))
    source.add("a.png", png(0), "ein Käx")
    source.add("b.png", png(1))
    source.add("film.mp4", movie(16))
    source.add("bad.png", b"no picture")
    return source


def test_counts_are_those_of_the_inputs() -> None:
    found = forecast(planner(mixed()), FORM)
    assert (found.inputs, found.rows, found.captions, found.units) == (4, 3, 1, 3)
    assert found.sizes == {(1, 16, 24): 2, (16, 16, 24): 1}
    assert found.quarantined == {"not_an_image": 1}
    assert found.compiles == 2
    assert found.codes == 2 * 6 + 4 * 6
    assert found.megapixels == pytest.approx((2 + 16) * 16 * 24 / 1e6)
    assert found.bytes == 2 * 36 + 3 * 150 + 8
    assert found.device_hours(0.5) == pytest.approx(0.006912 / 0.5 / 3600)


def test_sequences_are_as_long_as_their_tokens() -> None:
    """BOS, BOI, IMG and EOS; one token per character of the size; rows with EOL; EOF per frame; EOI."""
    image = 4 + len("2*3") + 2 * (3 + 1) + 1 + 1
    film = 4 + len("4*2*3") + 4 * (2 * 3 + 1) + 1
    assert sequence_length((1, 16, 24), EMU3, FORM) == image == 17
    assert sequence_length((16, 16, 24), EMU3, FORM) == film == 38
    lengths = forecast(planner(mixed()), FORM).sequence_lengths
    assert sorted(lengths.tolist()) == [17, 17 + 2, 38], "eight bytes of caption count as two tokens"


def test_codes_of_32_bits_take_four_bytes_and_videos_are_refused() -> None:
    source = memory_source(a=png(0, 32, 48), b=png(1, 16, 24))
    source.add("film.mp4", movie(16))
    found = forecast(planner(source, codec=EMU35), FORM)
    assert found.sizes == {(1, 32, 48): 1}
    assert found.quarantined == {"bad_size": 1, "images_only": 1}
    assert (found.codes, found.bytes) == (6, 6 * 4 + 150)


def test_clips_of_two_lengths_share_a_graph_that_images_do_not_use() -> None:
    source = memory_source(a=png(0), b=png(1, 32, 32))
    source.add("film.mp4", movie(24))  # sixteen frames, then eight
    found = forecast(planner(source), FORM)
    assert set(found.sizes) == {(1, 16, 24), (1, 32, 32), (16, 16, 24), (8, 16, 24)}
    assert found.compiles == 3


def test_a_source_of_refused_inputs_only() -> None:
    found = forecast(planner(memory_source(bad=b"no picture")), FORM)
    assert (found.inputs, found.rows, found.codes, found.bytes, found.compiles) == (1, 0, 0, 0, 0)
    assert "no sequence fits" in forecast_text(found, None, 8192)


def test_a_broken_source_stops_the_forecast_as_it_would_the_job() -> None:
    with pytest.raises(JobStoppedError):
        forecast(planner(memory_source(a=b"x", b=b"x"), max_refused_in_a_row=1), FORM)


def test_the_text_has_all_numbers() -> None:
    text = forecast_text(forecast(planner(mixed()), FORM), 0.5, seq_length=38)
    for expected in (
        "4: 3 rows in 3 units, 1 captions",
        "16×24 (2), 16×16×24 (1)",
        "2 graphs",
        "0.006912 million",
        "3.84e-06 at 0.5 megapixels/s",
        "36 codes",
        "about 74 tokens in 3 sequences, 0 too long for 38; 2.6% padding if packed, 35.1% with one sequence per row",
        "1 of 4, judged by their headers: not_an_image (1)",
    ):
        assert expected in text, text
    assert "unknown" in forecast_text(forecast(planner(mixed()), FORM), None, 8192)


def test_the_rate_of_a_dataset_is_pixels_over_seconds(tmp_path: Path) -> None:
    """Three rows of 16×24 pixels in two seconds; the unit of refused inputs does not count."""
    handmade.make(tmp_path / "dataset")
    dataset = Dataset.open(tmp_path / "dataset")
    assert measured_megapixels_per_s(dataset) is None
    dataset.events.append(event="unit", unit=0, rows=3, elapsed_s=2.0, time=0.0)
    dataset.events.append(event="unit", unit=1, rows=0, elapsed_s=7.0, time=0.0)
    assert measured_megapixels_per_s(dataset) == pytest.approx(3 * 16 * 24 / 1e6 / 2)
