# SPDX-License-Identifier: Apache-2.0
"""Sphinx: the pages are Markdown, for they are read on code-hosting sites as well."""

from importlib.metadata import version as version_of

project = "glance-staging-watcher"
copyright = "its authors, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release = version_of(project)

extensions = ["myst_parser", "oslo_config.sphinxext"]
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 3
myst_ref_domains = ["std"]  # that of oslo.config would fail on a link that leads nowhere

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False
