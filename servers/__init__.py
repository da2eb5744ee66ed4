"""Reference servers, one short file per I/O model, and a load generator; nothing of tracing."""
