# SPDX-License-Identifier: Apache-2.0
"""What the service writes and serves: audit, metrics, HTTP, systemd, report."""

MODE = 0o640  # of the files
