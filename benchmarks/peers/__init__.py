# SPDX-License-Identifier: Apache-2.0
"""What the watcher is measured against; each runs in a process of its own."""
