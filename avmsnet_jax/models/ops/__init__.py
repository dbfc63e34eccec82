"""The operations of the network, one per file: the plain form, faster forms for some platforms, and the choice."""
