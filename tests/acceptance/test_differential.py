# SPDX-License-Identifier: Apache-2.0
"""Our sweep against Glance's own cleaner: the same but for the differences we want."""

import re
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance import configuration
from tests.acceptance.cleaners import Cleaners, Result, Tree
from tests.acceptance.conftest import SiteMaker
from tests.acceptance.environment import Environment
from watcher.errors import DatabaseError

LIVE, DELETED, ABSENT, OTHER = (str(uuid.uuid4()) for _ in range(4))
PLAIN_LOG = """
logging_default_format_string = %(levelname)s %(name)s %(message)s
logging_context_format_string = %(levelname)s %(name)s %(message)s
logging_debug_format_suffix =
"""
SLOW = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)

ids = st.uuids().map(str)
suffixes = st.one_of(
    st.just(""),
    st.sampled_from([".uc", ".raw", ".qcow2", ".", "..", ".a.b", ".raw.uc", ". "]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=20).map(
        ".{}".format
    ),
)
odd_names = st.one_of(
    st.sampled_from(["foo", "foo.bar", ".hidden", "running-task", "lost+found", "\n", " "]),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30
    ),
    ids.map("running-task-{}".format),
    ids.map(" {}".format),
    ids.map("{}_".format),
    ids.map("{}-1".format),
    st.binary(min_size=1, max_size=8).map(
        lambda raw: "x" + raw.translate(None, b"/\0").decode(errors="surrogateescape")
    ),
).filter(lambda name: name not in (".", "..") and len(name.encode(errors="replace")) < 200)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree in which nothing is of a kind that we treat in another way on purpose."""
    known = draw(st.lists(ids, unique=True, min_size=1, max_size=6))
    states = {image: draw(st.sampled_from(["live", "deleted", "absent"])) for image in known}
    # A live image in another case is a difference of its own, see below.
    written = [*known, *(image.upper() for image in known if states[image] != "live")]
    image_names = st.builds("{}{}".format, st.sampled_from(written), suffixes)
    # Not one_of, which would take each way to an odd name for as likely as an image's.
    names = st.sampled_from([image_names, image_names, odd_names]).flatmap(lambda kind: kind)
    kinds = st.sampled_from(["file", "file", "file", "empty", "directory", "link", "fifo"])
    return Tree(
        entries=draw(st.dictionaries(names, kinds, min_size=1, max_size=15)),
        live=[OTHER, *(image for image in known if states[image] == "live")],
        deleted=[image for image in known if states[image] == "deleted"],
        status=draw(st.sampled_from(["queued", "uploading", "importing", "active"])),
    )


@pytest.fixture(scope="module", params=["multi", "single"])
def cleaners(request: pytest.FixtureRequest, new_site: SiteMaker) -> Iterator[Cleaners]:
    environment = Environment("current")
    multi = request.param == "multi"
    site, directory = new_site(f"differential-{request.param}", multi_store=multi, sqlite=True)
    config_file = configuration.write(site, directory / "a", absent_grace=0, default=PLAIN_LOG)
    environment.manage(config_file, "db", "sync")
    made = Cleaners(environment, config_file, site.database_url)
    yield made
    made.close()


@SLOW
@given(tree=trees())
def test_the_same(cleaners: Cleaners, tree: Tree) -> None:
    assert cleaners.ours(tree) == cleaners.glance(tree)


@pytest.mark.parametrize("there", [True, False])
def test_the_same_without_a_file(cleaners: Cleaners, there: bool) -> None:
    tree = Tree({}, live=[OTHER], there=there)
    assert cleaners.glance(tree) == Result((), ())
    assert cleaners.program(tree)[0] == Result((), ())


@settings(SLOW, max_examples=8)
@given(tree=trees())
def test_the_same_by_the_real_program(cleaners: Cleaners, tree: Tree) -> None:
    expected = cleaners.glance(tree)
    result, code, last = cleaners.program(tree)
    assert result.left == expected.left
    assert result.said == expected.said
    counts = expected.said[-1][1]
    assert code == int("(0 errors)" not in counts)
    plural = re.sub(r"\b1 (stale staging file|error)\b", r"1 \1s", last)  # as Glance's line has it
    assert plural.startswith(f"{counts}; ") and last.endswith(" gained")


UUID = uuid.UUID(ABSENT)


@pytest.mark.parametrize(
    "name",
    [UUID.hex, f"{{{ABSENT}}}", f"urn:uuid:{ABSENT}", UUID.hex[:7] + "-" + UUID.hex[7:]],
    ids=["hex", "braces", "urn", "hyphen"],
)
def test_difference_only_the_uuids_that_glance_gives(cleaners: Cleaners, name: str) -> None:
    tree = Tree({name: "file", ABSENT: "file"}, live=[OTHER])
    assert cleaners.glance(tree).left == ()
    assert cleaners.ours(tree).left == (name,)


def test_difference_another_glances_database(cleaners: Cleaners) -> None:
    tree = Tree({ABSENT: "file"}, live=[OTHER])
    assert cleaners.glance(tree).left == ()
    assert cleaners.ours(tree, trusted=False).left == (ABSENT,)


def test_difference_an_images_table_without_a_row(cleaners: Cleaners) -> None:
    tree = Tree({ABSENT: "file"})
    assert cleaners.glance(tree).left == ()
    with pytest.raises(DatabaseError):
        cleaners.ours(tree)
    assert cleaners.left() == [ABSENT]


def test_difference_the_grace(cleaners: Cleaners) -> None:
    tree = Tree({ABSENT: "file", DELETED: "file"}, live=[OTHER], deleted=[DELETED])
    assert cleaners.glance(tree).left == ()
    assert cleaners.ours(tree, absent_grace=600).left == (ABSENT,)


def test_difference_the_limit(cleaners: Cleaners) -> None:
    names = [str(uuid.uuid4()) for _ in range(5)]
    tree = Tree(dict.fromkeys([*names, DELETED], "file"), live=[OTHER], deleted=[DELETED])
    assert cleaners.glance(tree).left == ()
    ours = cleaners.ours(tree, max_absent_removals=2)
    assert len(ours.left) == 3 and set(ours.left) < set(names)


def test_difference_a_live_image_in_another_case(cleaners: Cleaners) -> None:
    """Glance on SQLite compares ids with regard to case, and on MariaDB without."""
    tree = Tree({LIVE.upper(): "file"}, live=[LIVE])
    assert cleaners.glance(tree).left == ()
    assert cleaners.ours(tree).left == (LIVE.upper(),)
