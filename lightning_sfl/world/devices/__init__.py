"""The clients' devices and the server."""
