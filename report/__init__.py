"""Rows in; tables, figures and the page out.

``report.rows`` and ``report.details`` are all that the stages know of this room.
"""
