"""Every SQL statement of auth, one module for each noun."""
