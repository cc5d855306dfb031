"""Rows in, tables out. ``report.rows`` is all that the stages know of this room."""
