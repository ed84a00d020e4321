"""Fixtures for the store's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flaky_proxy import FlakyProxy, flaky_proxy
from servers import S3Endpoint
from stores import ATOMIC, KINDS, make_store, s3_store

from pipeline.store import patience
from pipeline.store.objects import ObjectStore


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return make_store(request.param, request)


@pytest.fixture(params=ATOMIC)
def atomic_store(request: pytest.FixtureRequest) -> ObjectStore:
    return make_store(request.param, request)


@pytest.fixture
def proxy(moto_endpoint: S3Endpoint) -> Iterator[FlakyProxy]:
    with flaky_proxy(moto_endpoint.endpoint_url) as running:
        yield running


@pytest.fixture
def flaky(proxy: FlakyProxy, moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    return s3_store(moto_endpoint, endpoint_url=proxy.url)
