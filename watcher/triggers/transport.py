# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging on native threads: import it from here, so that nothing chooses eventlet first."""

import contextlib
import os
from typing import Any

from oslo_config import cfg
from oslo_service import backend

from watcher import logs
from watcher.conf import DISTRIBUTION
from watcher.errors import ConfigError

# futurist imports eventlet if it is installed, with a DNS library that takes as long as all else.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
logs.quieten()
with contextlib.suppress(ValueError):  # oslo.service 4.1 has none; nothing is to choose then
    backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging as messaging  # noqa: E402

__all__ = ["messaging", "new_transport", "parse_url"]


def new_transport(conf: cfg.ConfigOpts) -> Any:
    """The transport of notifications, as Glance has it; not connected yet.

    :raises ConfigError: the transport URL can't be used
    """
    messaging.set_transport_defaults(control_exchange="glance")
    try:
        return messaging.get_notification_transport(conf)
    except messaging.DriverLoadFailure as error:
        raise ConfigError(
            f"transport_url has the unknown scheme {error.driver!r}; expected rabbit://"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"transport_url can't be used: {error.name} is not installed; for kafka:// install "
            f"{DISTRIBUTION}[kafka]"
        ) from None
    except (messaging.MessagingException, cfg.Error, ValueError, RuntimeError) as error:
        # The text may hold the URL with its password.
        raise ConfigError(
            f"transport_url can't be used ({type(error).__name__}); expected "
            "rabbit://user:password@host:port/vhost"
        ) from None


def parse_url(conf: cfg.ConfigOpts) -> Any:
    """The URL of the transport, once there is one."""
    return messaging.TransportURL.parse(conf, conf.oslo_messaging_notifications.transport_url)
