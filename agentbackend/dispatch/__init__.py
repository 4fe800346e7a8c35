"""What is not on an interactive run's path: procrastinate's queue in PostgreSQL, and the workers of this process."""
