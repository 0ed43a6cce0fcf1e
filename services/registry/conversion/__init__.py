"""Making a GGUF from something else, in a child process: it may be killed, and what it dies of it dies of alone."""
