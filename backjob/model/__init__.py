"""Jobs as frozen records, and what may become of them. Pure: no database, no socket, no WSGI."""
