"""All SQL of the gateway, a module for each group of tables. None of it is on the way of an inference request."""
