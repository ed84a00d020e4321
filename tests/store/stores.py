"""Stores of every kind, each with a root of its own."""

from __future__ import annotations

from uuid import uuid4

import pytest
from servers import S3Endpoint, connect

from pipeline.config import StoreConfig
from pipeline.store.objects import ObjectStore

ATOMIC = ["local", "seaweed"]  # the other two look first and write then: with two writers, both may win
KINDS = [*ATOMIC, "moto", "memory"]


def s3_store(endpoint: S3Endpoint, **changes: object) -> ObjectStore:
    connect(endpoint).mkdirs("store-tests", exist_ok=True)
    options = {**endpoint.storage_options(), **changes}
    return ObjectStore.open(f"s3://store-tests/{uuid4().hex}", StoreConfig(storage_options=options))


def make_store(kind: str, request: pytest.FixtureRequest) -> ObjectStore:
    if kind == "local":
        return ObjectStore.open(str(request.getfixturevalue("tmp_path") / "out"), StoreConfig())
    if kind == "memory":
        return ObjectStore.open(f"memory://{uuid4().hex}/out", StoreConfig())
    return s3_store(request.getfixturevalue({"moto": "moto_endpoint", "seaweed": "s3_endpoint"}[kind]))
