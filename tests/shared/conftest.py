"""Fixtures of the tests of `shared`."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def bucket(s3: Callable[[str], str]) -> str:
    return s3("datasets")


@pytest.fixture(params=["memory", "s3"])
def remote_root(request: pytest.FixtureRequest) -> str:
    """An empty prefix in memory, and one in a bucket of a real S3 server on this machine."""
    base = "memory://bucket" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{base}/{request.node.name.replace('[', '-').replace(']', '')}"
