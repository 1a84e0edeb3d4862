# SPDX-License-Identifier: Apache-2.0
"""What `watcher.cli.check` looks at, a part in each module."""
