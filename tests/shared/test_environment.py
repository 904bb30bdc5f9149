"""The environment variables that MindSpore and its libraries read when they are first imported."""

from __future__ import annotations

import pytest

from shared import environment
from shared.environment import needs_onednn_limit, prepare_environment


@pytest.mark.parametrize(
    ("version", "machine", "is_needed"),
    [
        ("2.7.1", "x86_64", False),
        ("2.8.0", "x86_64", False),
        ("2.9.0", "x86_64", True),
        ("2.10.0", "x86_64", True),
        ("2.10.0rc1", "x86_64", True),
        ("3.0", "AMD64", True),
        ("2.10.0", "aarch64", False),
        ("", "x86_64", False),
    ],
)
def test_onednn_is_limited_where_its_convolution_is_slow(version: str, machine: str, is_needed: bool) -> None:
    assert needs_onednn_limit(version, machine) is is_needed


def test_variables_are_set_unless_the_user_has_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "mindspore_version", lambda: "2.10.0")
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    variables: dict[str, str] = {}
    prepare_environment(variables)
    assert variables == {"GLOG_v": "3", "CLOSE_MATMUL_K_SHIFT": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    own = dict.fromkeys(variables, "own")
    prepare_environment(own)
    assert set(own.values()) == {"own"}


def test_without_mindspore_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.metadata, "version", raise_not_found)
    variables: dict[str, str] = {}
    prepare_environment(variables)
    assert "ONEDNN_MAX_CPU_ISA" not in variables


def raise_not_found(name: str) -> str:
    raise environment.metadata.PackageNotFoundError(name)
