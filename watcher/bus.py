# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging on native threads: import it from here, so that nothing chooses eventlet first."""

import sys

from oslo_service import backend

# Where eventlet is installed it would be imported just to see whether it has patched anything: a
# tenth of a second, 10 MB, and warnings on stderr.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging as messaging  # noqa: E402

__all__ = ["messaging"]
