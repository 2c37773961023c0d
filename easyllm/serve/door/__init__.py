"""Who may ask, when, and how much; and what is kept of it."""
