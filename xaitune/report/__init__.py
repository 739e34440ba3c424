"""report.html: gathering what is in a runs folder, the sections of the page, and the page itself.

Import `write_report` from `page`, `report_on` and `list_runs` from `gather`.
"""
