"""/v1/responses: what is asked for, how it is answered, and what is kept of it."""
