# SPDX-License-Identifier: Apache-2.0
"""Sizes, ages and counts as text, in one style for log lines, tables and sentences."""


def human_size(size: float) -> str:
    """Bytes in binary units, as ``120 MiB``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(0, (int(size).bit_length() - 1) // 10), len(units) - 1)
    number = f"{size / 1024**power:.{1 if power else 0}f}"
    return f"{number if len(number) < 5 else number.partition('.')[0]} {units[power]}"


def human_age(seconds: float) -> str:
    """An age in its largest unit of seconds, minutes, hours and days; below zero for a future."""
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if size >= length:
            return f"{'-' * (seconds < 0)}{size // length:.0f}{unit}"
    return f"{'-' * (seconds <= -1)}{size // 1:.0f}s"


def counted(number: int, what: str) -> str:
    """A number of things, as ``1 file`` or ``2 files``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
