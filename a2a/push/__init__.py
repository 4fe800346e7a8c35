"""Push notifications: where a task's states are announced, and the announcing itself, at least once."""
