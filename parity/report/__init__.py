"""What was proven and measured, for people: HTML, Markdown, terminal, and as JSON."""
