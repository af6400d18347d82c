"""A hub with two tables of which one is enabled, and a device that follows both."""

import pytest

from .hub import carry

DEVICE = """
CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, a TEXT, n INTEGER);
CREATE TABLE u (id TEXT NOT NULL PRIMARY KEY, b TEXT, c TEXT);
"""


@pytest.fixture
def made(hub):
    hub.script("CREATE TABLE t (id text PRIMARY KEY, a text, n integer); CREATE TABLE u (id text PRIMARY KEY, b text)")
    hub.script("INSERT INTO t VALUES ('1', 'x', 1), ('2', 'y', 2); INSERT INTO u VALUES ('1', 'x'), ('2', 'y')")
    hub.enable("t")
    return hub


@pytest.fixture
def tablet(made, client):
    tablet = client("tablet", DEVICE, "t", "u", options={"existing": "ignore"})
    carry(tablet, made)
    return tablet
