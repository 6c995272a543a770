"""What came of runs: the ledger, and the statistics, tables, figures and pages rendered from it."""
