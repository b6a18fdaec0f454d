"""What a model's raw answer is made of: reasoning, tool calls and text."""
