"""Reports and comparisons as one HTML page that needs no network."""
