"""What records look like, and how foreign logs map onto them."""
