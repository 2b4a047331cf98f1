"""The wire formats: frames as JSON, websockets (RFC 6455), server-sent events."""
