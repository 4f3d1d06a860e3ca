"""The engine: jobs in, events out. It alone lets prompts join, extends conversations and steps."""
