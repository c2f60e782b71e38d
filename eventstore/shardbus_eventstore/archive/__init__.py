"""The streams as compressed files: written by ``archiver.py``, read by ``log.py`` as if they were the bus."""
