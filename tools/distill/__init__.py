"""Training, distilling and exporting the demo ladder."""
