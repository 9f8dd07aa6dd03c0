"""How answers are drawn: text, tables, live lines."""
