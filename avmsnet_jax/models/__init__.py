"""The network as pure modules, which know no files, flags or devices."""
