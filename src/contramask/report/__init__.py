"""The report: from the folders of all stages to one page a stranger understands."""
