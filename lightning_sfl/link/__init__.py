"""The link: everything that crosses between clients and server is a message on it."""
