# SPDX-License-Identifier: Apache-2.0
"""glance-api.conf for the tests: no keystone, file stores, tasks and imports on."""

from dataclasses import dataclass
from pathlib import Path

PLUGINS = "image_decompression,image_conversion"

PASTE = """\
[composite:glance-api]
paste.composite_factory = glance.api:root_app_factory
/: api

[pipeline:api]
pipeline = versionnegotiation context rootapp

[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app

[app:apiversions]
paste.app_factory = glance.api.versions:create_resource

[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory

[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory

[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""

CONF = """\
[DEFAULT]
debug = true
transport_url = {transport_url}
enabled_import_methods = [glance-direct,web-download,copy-image,glance-download]
{default}
[oslo_messaging_notifications]
driver = messagingv2
[database]
connection = {database_url}
[paste_deploy]
config_file = {directory}/glance-api-paste.ini
[image_import_opts]
image_import_plugins = [{plugins}]
max_parallel_stores = 2
[image_conversion]
output_format = raw
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = [{source_port}]
[task]
work_dir = {directory}/work
[wsgi]
task_pool_threads = 16
{stores}
[staging_watcher]
pool = watcher-{pool}
absent_grace = {absent_grace}
"""

SINGLE = """\
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = {shared}/store
"""

MULTI = """\
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {shared}/fast
[cheap]
filesystem_store_datadir = {shared}/cheap
[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks
"""

ABSENT_GRACE = 2  # seconds


@dataclass(frozen=True)
class Site:
    """What the hosts of one Glance share.

    :param shared: directory of the stores
    :param multi_store: ``enabled_backends``, else the single store of old
    """

    shared: Path
    multi_store: bool
    database_url: str
    transport_url: str
    source_port: int
    plugins: str = PLUGINS

    @property
    def stores(self) -> list[Path]:
        """Directories of the stores."""
        return [
            self.shared / name for name in (["fast", "cheap"] if self.multi_store else ["store"])
        ]


def write(
    site: Site, directory: Path, *, default: str = "", absent_grace: int = ABSENT_GRACE
) -> Path:
    """Write one host's configuration; the path of its glance-api.conf."""
    for path in (directory / "staging", directory / "work", *site.stores):
        path.mkdir(parents=True, exist_ok=True)
    if site.multi_store:
        default += "\nenabled_backends = fast:file,cheap:file"
    else:
        default += f"\nnode_staging_uri = file://{directory}/staging"
    stores = (MULTI if site.multi_store else SINGLE).format(shared=site.shared, directory=directory)
    (directory / "glance-api-paste.ini").write_text(PASTE)
    config_file = directory / "glance-api.conf"
    config_file.write_text(
        CONF.format(
            transport_url=site.transport_url,
            default=default,
            database_url=site.database_url,
            directory=directory,
            plugins=site.plugins,
            source_port=site.source_port,
            stores=stores,
            pool=f"{directory.parent.name}-{directory.name}",
            absent_grace=absent_grace,
        )
    )
    return config_file
