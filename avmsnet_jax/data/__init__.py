"""Layouts on disk to clips, clips to sharded records, records to batches."""

MANIFEST = "manifest.json"  # in every prepared directory: what was read, skipped and why, and where the records are
