"""A privacy audit: attacks that read exactly what crossed between clients and server.

An attack states what it may see and know (its threat model) and is handed nothing else.
"""
