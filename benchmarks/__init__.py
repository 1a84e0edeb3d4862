# SPDX-License-Identifier: Apache-2.0
"""The watcher side by side with Glance's cleaner, with its peers and with the bare limits."""
