"""Files of requests, answered within a day."""
