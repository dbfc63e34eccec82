"""The operations of the network, a file each: the plain statement, the forms that platforms want, and the choice."""
