"""A stranger's pod: tries to reach the services, and says of each whether it could."""

import os
import socket
from urllib.parse import urlsplit

for name in ("author", "conference", "gateway"):
    where = urlsplit(os.environ[f"{name.upper()}_URL"])
    for port in (where.port or 0, (where.port or 0) + 1000):
        host = where.hostname if port == where.port else f"{where.hostname}-admin"
        try:
            address = socket.gethostbyname(host or "")
            socket.create_connection((address, port), timeout=2).close()
            print(f"{name} {port} reached")
        except OSError as error:
            print(f"{name} {port} {type(error).__name__}")
