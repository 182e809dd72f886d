"""`silofl report`: runs as one HTML file that opens offline and holds no script."""
