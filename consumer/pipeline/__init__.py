"""The DSL: `parse` a definition into nodes that can run, then `execute` them."""
