# SPDX-License-Identifier: Apache-2.0
"""The watcher beside real Glances; see docs/comparison.md."""
