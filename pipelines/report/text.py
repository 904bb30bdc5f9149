"""Summaries and forecasts as text: one line per quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from shared.codec import Codec
from shared.maintenance.summary import Summary

if TYPE_CHECKING:
    from vq_stage.encode.estimate import Forecast

MAX_SIZES = 8
NAME_WIDTH = 11
PACKED_TOGETHER = 4096  # sequences packed at once; best-fit packing takes quadratic time


def summary_text(summary: Summary) -> str:
    """The table that `emu3 inspect` prints."""
    usage = summary.codebook_used / summary.codebook_size
    lines = {
        "units": f"{summary.units} of {summary.planned_units}",
        "rows": f"{summary.rows} of {summary.planned_rows} inputs, {summary.captions} with a caption",
        "grids": f"{counts_text(summary.sizes, MAX_SIZES)} (codes, height × width)" if summary.sizes else "none",
        "on disk": f"{summary.part_bytes} bytes, {_number(summary.bytes_per_code, 'bytes per code')}",
        "codebook": f"{summary.codebook_used} of {summary.codebook_size} entries used ({usage:.0%}),"
        f" {_number(summary.codebook_entropy_bits, 'bits per code')}",
        "quality": f"PSNR {_number(summary.psnr_db, 'dB')}, SSIM {_number(summary.ssim, '')}"
        f" ({summary.quality_samples} samples)",
        "quarantine": counts_text(summary.quarantined),
        "speed": _number(summary.images_per_s, "images/s"),
        "codec": _codec_text(summary.settings.codec),
    }
    if preprocessing := summary.settings.preprocessing:
        lines["resize"] = ", ".join(f"{name} {value}" for name, value in preprocessing.items())
    if generation := summary.settings.generation:
        lines["model"] = generation["model"][:12]
        lines["sampling"] = ", ".join(f"{name} {value}" for name, value in generation["sampling"].items())
        lines["guidance"] = str(generation["guidance_scale"])
    return _table(lines)


def _codec_text(codec: Codec) -> str:
    frames = f", {codec.temporal_factor} frames in videos" if codec.supports_video else ", images only"
    covered = f"{codec.spatial_factor} × {codec.spatial_factor} pixels{frames}"
    return f"{codec.short_fingerprint}, a code ({codec.code_dtype}) covers {covered}"


def forecast_text(forecast: Forecast, megapixels_per_s: float | None, seq_length: int) -> str:
    """The table that `emu3 plan` prints. `seq_length` is the length in tokens of a packed row during fine-tuning."""
    hours = "unknown: give --megapixels-per-s or --measured-in"
    if megapixels_per_s is not None:
        hours = f"{forecast.device_hours(megapixels_per_s):.3g} at {megapixels_per_s:.3g} megapixels/s"
    sizes = {_size(size): count for size, count in forecast.sizes.items()}
    refused = sum(forecast.quarantined.values())
    reasons = f": {counts_text(forecast.quarantined)}" if refused else ""
    rows = f"{forecast.rows} rows in {forecast.units} units"
    return _table(
        {
            "inputs": f"{forecast.inputs}: {rows}, {forecast.captions} captions",
            "sizes": f"{counts_text(sizes, MAX_SIZES)} (pixels, height × width)",
            "compiles": f"{forecast.compiles} graphs; --round-to 64 leads to fewer sizes",
            "pixels": f"{forecast.megapixels:.4g} million",
            "hours": f"{hours} (device-hours without compilation)",
            "on disk": f"{forecast.bytes / 1e9:.3g} GB, {forecast.codes} codes",
            "sft": _sft_text(forecast, seq_length),
            "quarantine": f"{refused} of {forecast.inputs}, judged by their headers{reasons}",
        }
    )


def _sft_text(forecast: Forecast, seq_length: int) -> str:
    """Tokens of all sequences, and the share of padding, in packed rows and with one sequence per row."""
    from lm_stage.data.packing import pack_best_fit

    lengths = forecast.sequence_lengths[forecast.sequence_lengths <= seq_length]
    too_long = len(forecast.sequence_lengths) - len(lengths)
    if not len(lengths):
        return f"no sequence fits in {seq_length} tokens"
    tokens = int(lengths.sum())
    chunks = np.array_split(lengths, len(lengths) // PACKED_TOGETHER + 1)
    rows = sum(len(pack_best_fit(chunk.tolist(), seq_length)) for chunk in chunks)
    packed = 1 - tokens / (seq_length * rows)
    unpacked = 1 - tokens / (len(lengths) * int(lengths.max()))
    return (
        f"about {tokens} tokens in {len(lengths)} sequences, {too_long} too long for {seq_length};"
        f" {packed:.1%} padding if packed, {unpacked:.1%} with one sequence per row"
    )


def _table(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<{NAME_WIDTH}}{value}" for name, value in lines.items())


def counts_text(counts: Mapping[str, int], limit: int | None = None) -> str:
    """Return `name (count), …`, or `none`."""
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:limit])
    return f"{shown or 'none'}{' …' if limit and len(counts) > limit else ''}"


def _size(size: tuple[int, int, int]) -> str:
    frames, height, width = size
    return f"{frames}×{height}×{width}" if frames > 1 else f"{height}×{width}"


def _number(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.4g} {unit}".rstrip()
