"""The suite on one machine without Docker: ``python -m deploy.local up``."""
