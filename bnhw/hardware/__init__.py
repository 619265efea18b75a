"""The hardware: its description, what happens on it when, and what that costs."""
