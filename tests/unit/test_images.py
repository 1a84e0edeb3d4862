# SPDX-License-Identifier: Apache-2.0
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services import Images as GlanceImages
from watcher import images as images_module
from watcher.conf import ConfigError
from watcher.images import DatabaseError, Images, ImageState, usable_url

LIVE, DELETED, ABSENT = ImageState.LIVE, ImageState.DELETED, ImageState.ABSENT


def new_id() -> str:
    return str(uuid.uuid4())


def test_states(images: GlanceImages, database_url: str) -> None:
    live, deleted, absent = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True, status="pending_delete")
    assert Images(database_url).states({live, deleted, absent}) == {
        live: LIVE,
        deleted: DELETED,
        absent: ABSENT,
    }


def test_states_of_more_ids_than_fit_one_query(images: GlanceImages, database_url: str) -> None:
    ids = [new_id() for _ in range(images_module.IDS_PER_QUERY * 2 + 1)]
    images.insert(*ids)
    assert Images(database_url).states(ids) == dict.fromkeys(ids, LIVE)
    assert Images(database_url).states([]) == {}


@pytest.mark.parametrize("stored", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("named", [str.lower, str.upper, str.title])
def test_no_live_image_looks_absent_because_of_case(
    images: GlanceImages,
    database_url: str,
    stored: Callable[[str], str],
    named: Callable[[str], str],
) -> None:
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(stored(image))
    table = Images(database_url)
    name = named(image)
    assert table.states([name])[name] in (LIVE, ABSENT)
    assert table.states_in_any_case([name]) == {name: LIVE}


def test_a_live_row_wins_over_one_of_other_case(images: GlanceImages, database_url: str) -> None:
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(image)
    if "mysql" not in database_url:  # there the two are one key
        images.insert(image.upper(), deleted=True)
    assert Images(database_url).states_in_any_case([image]) == {image: LIVE}


def test_each_read_sees_what_is_committed_now(images: GlanceImages, database_url: str) -> None:
    image, table = new_id(), Images(database_url)
    images.insert(image)
    assert table.states([image]) == {image: LIVE}
    images.delete(image)
    assert table.states([image]) == {image: DELETED}
    images.purge(image)
    assert table.states([image]) == {image: ABSENT}


def test_an_empty_table_is_no_proof_of_absence(images: GlanceImages, database_url: str) -> None:
    table = Images(database_url)
    assert not table.check()
    with pytest.raises(DatabaseError, match="no row at all"):
        table.states_in_any_case([new_id()])
    images.insert(new_id(), deleted=True)
    assert table.check()
    image = new_id()
    assert table.states_in_any_case([image]) == {image: ABSENT}


def test_no_table(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        (tmp_path / "glance.sqlite").touch()
    with pytest.raises(DatabaseError, match="images") as caught:
        Images(database_url).check()
    assert "\n" not in str(caught.value)


def test_sqlite_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(DatabaseError, match="unable to open"):
        Images(f"sqlite:///{path}").check()
    assert not path.exists()


def test_sqlite_in_a_file_of_odd_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a b#c%20d.sqlite"
    glance = GlanceImages(url)
    glance.create_table()
    assert not Images(url).check()
    glance.close()


@pytest.mark.parametrize("server", ["mariadb", "postgresql"])
def test_an_unreachable_database_gives_no_secret_away(server: str) -> None:
    scheme = {"mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}[server]
    with pytest.raises(DatabaseError) as caught:
        Images(f"{scheme}://glance:s3cr3t@127.0.0.1:1/glance").check()
    assert "127.0.0.1" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql+nosuchdriver://u@h/d", "mysql+pymysql://u@h/d"),
        (
            "mysql+pymysql://u@h/d?charset=utf8&plugin=dbcounter",
            "mysql+pymysql://u@h/d?charset=utf8",
        ),
        ("mariadb://u@h/d", "mariadb+pymysql://u@h/d"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+nosuchdriver://u@h/d", "postgresql+psycopg://u@h/d"),
    ],
)
def test_usable_url(url: str, expected: str) -> None:
    assert usable_url(url).render_as_string() == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "can't be parsed"),
        ("not a url s3cr3t", "can't be parsed"),
        ("mysql://glance:s3cr3t@host:port/glance", "can't be parsed"),
        ("oracle://glance:s3cr3t@host/glance", "unknown scheme 'oracle'"),
        ("s3cr3t://host/glance", "unknown scheme"),
    ],
)
def test_a_bad_url_is_one_line(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Images(url)
    assert "\n" not in str(caught.value)
    assert ":s3cr3t@" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "_installed", lambda driver: False)
    with pytest.raises(ConfigError, match=r"pip install glance-staging-watcher\[postgresql\]"):
        usable_url("postgresql://u@h/d")
    with pytest.raises(ConfigError, match=r"pip install glance-staging-watcher\[mysql\]"):
        usable_url("mysql://u@h/d")


def test_the_urls_own_time_limits_stay() -> None:
    url = usable_url("mysql+pymysql://u@h/d?connect_timeout=3")
    limits = images_module._connect_args(url)
    assert "connect_timeout" not in limits
    assert limits["read_timeout"] == images_module.READ_TIMEOUT
