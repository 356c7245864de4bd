# SPDX-License-Identifier: Apache-2.0
"""What ``bido list`` reads is what the registries hold."""

from __future__ import annotations

from bido_ext.cli.catalogue import catalogue_text
from bido_ext.cli.list import CATALOGUE


def test_catalogue_is_what_the_registries_hold() -> None:
    assert CATALOGUE.read_text() == catalogue_text(), (
        "a registry changed: run python -m bido_ext.cli.catalogue and commit the file"
    )
