"""The three models of the replaced system's chat, as far as their tables go."""
