"""What goes over the wire: frames as JSON, websockets (RFC 6455), server-sent events."""
