# SPDX-License-Identifier: Apache-2.0
"""Names of staged files and the images that they belong to."""

import re

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def image_id(name: str) -> str | None:
    """Image id in a staged file's name, as written there; None when it is no image's file.

    Glance drops all from the first dot on and asks for a UUID. We take only the form that it
    gives to images: 36 characters with hyphens, in any case.
    """
    stem = name.partition(".")[0]
    return stem if _UUID.fullmatch(stem) else None


def canonical_id(value: object) -> str | None:
    """Lower-case form of an image id, by which ids are compared; None for anything else."""
    return value.lower() if isinstance(value, str) and _UUID.fullmatch(value) else None


class NameIndex:
    """Names of staged files by image, so that one image's files are found without a listing.

    ``<id>`` itself needs no entry; only names with a suffix or capital letters are kept, which
    are few. The index is a hint: each name is looked up before anything is done with it.
    """

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def add(self, name: str) -> None:
        """Remember a name that was seen in the directory."""
        if len(name) == 36 and name == name.lower():
            return  # <id> itself, or no image's file
        found = image_id(name)
        if found is not None and (key := found.lower()) != name:
            self._names.setdefault(key, set()).add(name)

    def discard(self, name: str) -> None:
        """Forget a name that is gone."""
        key = (image_id(name) or "").lower()
        names = self._names.get(key, set())
        names.discard(name)
        if not names:
            self._names.pop(key, None)

    def files_of(self, key: str) -> list[str]:
        """Names that an image's files may have, by its canonical id."""
        return [key, *sorted(self._names.get(key, ()))]
