# SPDX-License-Identifier: Apache-2.0
"""Removes stale files from Glance's staging directory as soon as an event tells of them."""
