"""What lies between clients and server: how long it takes to get bits across."""
