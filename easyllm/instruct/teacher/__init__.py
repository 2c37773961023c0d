"""The teacher: what is asked of it, what it costs, and what it has said already."""
