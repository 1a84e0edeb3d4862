# SPDX-License-Identifier: Apache-2.0
"""Event sources: they put keys on the work queue, nothing else."""
