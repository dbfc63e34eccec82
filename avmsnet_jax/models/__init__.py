"""The network as pure modules: no files, no flags, no devices."""
