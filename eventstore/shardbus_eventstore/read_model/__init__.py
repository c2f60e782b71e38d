"""The read model: the folded state as rows in Postgres, for people, pages and other programs to query."""
