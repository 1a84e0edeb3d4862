# SPDX-License-Identifier: Apache-2.0
"""Glance's database: image ids to states, read only."""
