# SPDX-License-Identifier: Apache-2.0
"""Makes the staging directory agree with the database: plan, removal, counts."""
