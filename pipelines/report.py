"""Summaries as text for people."""

from __future__ import annotations

from shared.summary import Summary


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
        "codec": (summary.settings["codec"]["fingerprint"] or "not known")[:12],
    }
    if "preprocessing" in summary.settings:
        lines["resize"] = ", ".join(f"{name} {value}" for name, value in summary.settings["preprocessing"].items())
    if generation := summary.settings.get("generation"):
        lines["model"] = generation["model"][:12]
        lines["sampling"] = ", ".join(f"{name} {value}" for name, value in generation["sampling"].items())
        lines["guidance"] = str(generation["guidance_scale"])
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())


def _number(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:.4g} {unit}".rstrip()
