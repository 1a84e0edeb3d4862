# SPDX-License-Identifier: Apache-2.0
"""Removes stale files from Glance's staging directory as soon as an event reports them."""

import warnings

# oslo's libraries import eventlet where it is installed, some just to see whether it is in use.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
