"""What whoever runs the service sees of it: numbers for Prometheus, and traces."""
