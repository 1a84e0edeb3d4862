# SPDX-License-Identifier: Apache-2.0
"""Many hosts under simulated time; see docs/scale.md."""
