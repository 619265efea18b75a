"""What people see: reports as values, as JSON and as tables."""
