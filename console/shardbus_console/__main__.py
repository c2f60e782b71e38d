"""``python -m shardbus_console`` is ``shardbus``."""

from shardbus_console.main import main

main()
