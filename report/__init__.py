"""The reports: tables, paired tests, figures and the page, all made from the result rows."""
