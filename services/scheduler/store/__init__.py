"""Every SQL statement of the scheduler, a module for each group of tables."""
