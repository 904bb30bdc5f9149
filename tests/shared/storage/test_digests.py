"""Canonical JSON, its digest, and the differences between settings."""

from __future__ import annotations

import json

from shared.storage.digests import canonical_json, digest_of, settings_diff


def test_diff_names_nested_settings() -> None:
    recorded = {"codec": {"fingerprint": "aa", "size": 4}, "dtype": "float32"}
    given = {"codec": {"fingerprint": "bb", "size": 4}, "area": 3}
    assert settings_diff(recorded, given) == [
        "area: recorded nothing, given 3",
        'codec.fingerprint: recorded "aa", given "bb"',
        'dtype: recorded "float32", given nothing',
    ]
    assert settings_diff(recorded, json.loads(canonical_json(recorded))) == []


def test_diff_goes_into_lists_of_settings_and_not_into_others() -> None:
    recorded = {"data": [{"samples": 3, "weight": 1}, {"weight": 1}], "targets": ["a", "b"]}
    given = {"data": [{"samples": 3, "weight": 0.5}], "targets": ["a"]}
    assert settings_diff(recorded, given) == [
        "data.0.weight: recorded 1, given 0.5",
        'data.1: recorded {"weight":1}, given nothing',
        'targets: recorded ["a","b"], given ["a"]',
    ]


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
