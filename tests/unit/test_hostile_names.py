# SPDX-License-Identifier: Apache-2.0
"""With any name, a file neither stops a sweep nor goes without a dead image's id."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.services import Images as GlanceImages
from tests.unit.passes import clean, new_cleaner, sweep
from watcher.database.images import Images
from watcher.staging.directory import Staging
from watcher.stats import Trigger

LIVE = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
DEAD = "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb"

anything = st.binary(min_size=1, max_size=200).map(lambda name: name.translate(None, b"/\0"))
ids = st.sampled_from([LIVE, DEAD, LIVE.upper(), DEAD.upper(), DEAD.replace("-", ""), DEAD[:-1]])
names = st.one_of(
    anything,
    st.builds(lambda image, rest: image.encode() + rest, ids, anything),
    st.builds(lambda image, rest: image.encode() + b"." + rest, ids, anything),
    st.builds(lambda rest, image: rest + image.encode(), anything, ids),
    st.text(min_size=1, max_size=60).map(
        lambda text: text.encode("utf-8", "surrogatepass").translate(None, b"/\0")
    ),
).filter(lambda name: name not in (b"", b".", b"..") and len(name) <= 255)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """A database with a live image and a dead one."""
    url = f"sqlite:///{tmp_path_factory.mktemp('database')}/glance.sqlite"
    glance = GlanceImages(url)
    glance.create_table()
    glance.insert(LIVE)
    glance.insert(DEAD, deleted=True)
    made = Images(url)
    yield made
    made.close()
    glance.close()


def left_of(names: set[bytes]) -> set[bytes]:
    """What must stay, found by other means than the code under test."""
    return {name for name in names if name.split(b".")[0] != DEAD.encode()}


@settings(max_examples=100, deadline=None)
@given(st.sets(names, max_size=12), st.sets(names, max_size=12))
def test_names(images: Images, swept: set[bytes], reported: set[bytes]) -> None:
    with tempfile.TemporaryDirectory() as home:
        directory = os.fsencode(home)
        with Staging(home) as staging:
            cleaner = new_cleaner(staging, images, absent_grace=60, max_absent_removals=10)
            for name in swept:
                open(os.path.join(directory, name), "wb").close()
            outcome = sweep(cleaner)
            assert outcome.cleaned + outcome.ignored == len(swept)
            assert set(os.listdir(directory)) == left_of(swept)
            for name in reported:
                open(os.path.join(directory, name), "wb").close()
            clean(cleaner, {os.fsdecode(name): 0.0 for name in reported})
            clean(cleaner, dict.fromkeys(staging.files_of(DEAD), 0.0), Trigger.NOTIFICATION)
        assert set(os.listdir(directory)) == left_of(swept | reported)
