"""``shardbus agent`` as on a host with nothing else to do: it waits for its bus, and runs before others here."""

import contextlib
import os
import socket
import sys
import time
from urllib.parse import urlsplit

from shardbus_console.main import main

if __name__ == "__main__":
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    url = urlsplit(os.environ["SHARDBUS_NATS_URL"])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port), timeout=2):
            break
        time.sleep(0.1)
    sys.argv[1:1] = ["agent"]
    main()
