"""The report: one HTML file that holds the table, the charts and where every number comes from."""
