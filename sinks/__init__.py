"""Where results go: the lake, the findings topic, metrics."""
