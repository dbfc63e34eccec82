"""From collections of films on disk to clips, sharded records and batches."""

MANIFEST = "manifest.json"  # in every prepared directory: what was read, skipped and why, and where the records are
