# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.cli.table import one_word
from watcher.units import human_age, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 << 20, "3.0 MiB"),
        (100 << 30, "100 GiB"),
        (1 << 40, "1.0 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (-0.4, "0s"),
        (59.9, "59s"),
        (60.0, "1m"),
        (3599.0, "59m"),
        (3600.0, "1h"),
        (86399.0, "23h"),
        (86400.0, "1d"),
        (400 * 86400.0, "400d"),
        (-90.0, "-1m"),
        (-5.0, "-5s"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert human_age(seconds) == text


@given(st.binary(min_size=1, max_size=40))
def test_any_name_becomes_one_harmless_word(raw: bytes) -> None:
    shown = one_word(raw.decode("utf-8", "surrogateescape"))
    assert shown.isprintable() and not re.search(r"\s", shown)


@given(st.sets(st.binary(min_size=1, max_size=8), min_size=2))
def test_no_two_names_look_the_same(names: set[bytes]) -> None:
    assert len({one_word(name.decode("utf-8", "surrogateescape")) for name in names}) == (
        len(names)
    )
