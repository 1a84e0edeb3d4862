# SPDX-License-Identifier: Apache-2.0
"""What things take: measured, and here only repeated. Seconds and bytes.

Times are those of docs/performance.md, the broker's those of docs/scale.md (one machine of two
processors, MariaDB, RabbitMQ).
"""

# From publisher to the watcher's endpoint 1.4 ms on an idle bus: this, and then LISTEN.
BUS = 0.0014 - 0.00038
LISTEN = 1 / 2627  # one message in a long backlog, the removal of its file in it
HAND_OVER = 0.00017  # from the listener's thread, or inotify's, to the cleaner's
OPEN = 0.00010  # the directory, and a look for the files of an image
READ = 0.00063  # one question to the database after a rest
DECIDE = 0.00009  # with the two checks before a removal
UNLINK = 0.00010
LOOK = 0.00001  # at one file in a sweep, its share of the question to the database in it
FILE_EVENT = 0.0001  # from the kernel
# Of a processor of the broker, one message to one queue: 37 to 99 µs in a backlog, 100 to 190 one
# by one, by the number of classic queues; quorum queues up to three times that.
DELIVER = 0.000065

# On the wire from the broker to a listener, read from the broker's counters; tests/simulation
# measures it again. The payload is that of an image without properties of its own.
DELETE_BYTES = 1070
ACK_BYTES = 21  # back to the broker
# What else Glance 33.0 sends about an image from `create` to the end of one `glance-direct` import:
# 14 messages of 889 bytes (image.create, .update, .prepare, .upload, .activate, task.*), and one
# image.send for each download. They come to the same queue.
OTHERS = 14
OTHER_BYTES = 992
