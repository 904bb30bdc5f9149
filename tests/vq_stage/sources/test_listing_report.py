"""The report of what a listing used, skipped and could not match."""

from __future__ import annotations

from vq_stage.sources.listing_report import ListingReport


def test_nothing_to_report() -> None:
    assert list(ListingReport().lines()) == []


def test_counts_and_first_examples() -> None:
    report = ListingReport(used="a folder of tars")
    for name in ("b.jpg", "a.jpg"):
        report.without_caption.add(name)
    report.unused_captions.add("c.txt")
    report.skip("hidden files", "._a.jpg")
    report.skip(".heic files", "a.heic")
    assert list(report.lines()) == [
        "a folder of tars",
        "captions: 2 inputs without a caption (first: b.jpg); 1 unused captions (first: c.txt)",
        "skipped: 1 .heic files (first: a.heic)",
        "skipped: 1 hidden files (first: ._a.jpg)",
    ]
