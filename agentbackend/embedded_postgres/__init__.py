"""A PostgreSQL of our own for one machine: found or taken from a wheel, started when it is needed, stopped by the last who used it."""
