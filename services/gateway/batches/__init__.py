"""The batch lane: files of requests, run when nobody else wants a slot. It is all in Postgres: any gateway goes on."""
