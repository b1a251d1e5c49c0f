"""Turn bytes into frames and events, and back: no sockets, no clock."""
