# SPDX-License-Identifier: Apache-2.0
"""What `watcher.check` looks at, a part in each module."""
