"""The rules, the as-of join they read, and the engine that judges a batch."""
