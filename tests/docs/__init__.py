"""The site of docs/: what it shows runs, and it builds."""
