"""Changes files at random, and watches the commands that read them."""
