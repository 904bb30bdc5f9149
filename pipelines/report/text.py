"""Summaries as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shared.maintenance.summary import Summary

if TYPE_CHECKING:
    from vq_stage.encode.estimate import Forecast


def summary_text(summary: Summary) -> str:
    """A table of what `emu3 inspect` knows, one line a fact."""
    sizes = ", ".join(f"{size} ({count})" for size, count in list(summary.sizes.items())[:8])
    refused = ", ".join(f"{reason} ({count})" for reason, count in summary.quarantined.items())
    used = f"{summary.codebook_used} of {summary.codebook_size} ({summary.codebook_used / summary.codebook_size:.0%})"
    lines = {
        "units": f"{summary.units} of {summary.planned_units}",
        "rows": f"{summary.rows} of {summary.planned_rows} inputs, {summary.captions} with a caption",
        "grids": f"{sizes or 'none'}{' …' if len(summary.sizes) > 8 else ''} (codes high × wide)",
        "on disk": f"{summary.part_bytes} bytes, {_number(summary.bytes_per_code, 'bytes a code')}",
        "codebook": f"{used}, {_number(summary.codebook_entropy_bits, 'bits a code')}",
        "quality": f"PSNR {_number(summary.psnr_db, 'dB')}, SSIM {_number(summary.ssim, '')}"
        f" ({summary.quality_samples} samples)",
        "quarantine": refused or "none",
        "speed": _number(summary.images_per_s, "images/s"),
        "codec": summary.settings.codec.short_fingerprint,
    }
    if preprocessing := summary.settings.preprocessing:
        lines["resize"] = ", ".join(f"{name} {value}" for name, value in preprocessing.items())
    if generation := summary.settings.generation:
        lines["model"] = generation["model"][:12]
        lines["sampling"] = ", ".join(f"{name} {value}" for name, value in generation["sampling"].items())
        lines["guidance"] = str(generation["guidance_scale"])
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())


def forecast_text(forecast: Forecast, megapixels_per_s: float | None, seq_length: int) -> str:
    """What `emu3 plan` tells, one line a fact."""
    sizes = list(forecast.sizes.items())
    shown = ", ".join(f"{_size(size)} ({count})" for size, count in sizes[:8])
    refused = sum(forecast.quarantined.values())
    reasons = ", ".join(f"{reason} ({count})" for reason, count in forecast.quarantined.items())
    hours = "not known: give --megapixels-per-s or --measured-in"
    if megapixels_per_s:
        hours = f"{forecast.device_hours(megapixels_per_s):.3g} at {megapixels_per_s:.3g} megapixels a second"
    lines = {
        "inputs": f"{forecast.inputs}: {forecast.rows} rows in {forecast.units} units, {forecast.captions} captions",
        "sizes": f"{shown or 'none'}{' …' if len(sizes) > 8 else ''} (pixels high × wide)",
        "compiles": f"{forecast.compiles} graphs; --round-to 64 makes fewer sizes",
        "pixels": f"{forecast.megapixels:.4g} million",
        "hours": f"{hours} (device-hours, without compiling)",
        "on disk": f"{forecast.bytes / 1e9:.3g} GB, {forecast.codes} codes",
        "sft": _sft_text(forecast, seq_length),
        "quarantine": f"{refused} of {forecast.inputs} by their headers{': ' if reasons else ''}{reasons}",
    }
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())


def _size(size: tuple[int, int, int]) -> str:
    frames, height, width = size
    return f"{frames}×{height}×{width}" if frames > 1 else f"{height}×{width}"


def _sft_text(forecast: Forecast, seq_length: int) -> str:
    """Tokens of all sequences, and what padding takes: packed into rows, and without packing."""
    from lm_stage.data.packing import pack_best_fit

    fitting = forecast.sequence_lengths[forecast.sequence_lengths <= seq_length]
    too_long = len(forecast.sequence_lengths) - len(fitting)
    if not len(fitting):
        return f"no sequence fits {seq_length} tokens"
    tokens = int(fitting.sum())
    parts = np.array_split(fitting, len(fitting) // 4096 + 1)
    packed = 1 - tokens / (seq_length * sum(len(pack_best_fit(part.tolist(), seq_length)) for part in parts))
    padded = 1 - tokens / (len(fitting) * int(fitting.max()))
    return (
        f"about {tokens} tokens in {len(fitting)} sequences, {too_long} too long for {seq_length};"
        f" padding {packed:.1%} packed, {padded:.1%} one a row"
    )


def _number(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:.4g} {unit}".rstrip()
