# SPDX-License-Identifier: Apache-2.0
"""The staging directory: names, listing, safe removal, mounts."""
