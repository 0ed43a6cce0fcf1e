"""Every SQL statement of the registry, a module for each group of tables."""
