from avmsnet_jax.commands import summarize

if __name__ == "__main__":
    summarize.run()
