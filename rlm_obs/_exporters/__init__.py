"""Where finished spans go: the console, a file, Langfuse, a user's own exporter. Each is a plugin, used when named."""
