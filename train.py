from avmsnet_jax.commands import train

if __name__ == "__main__":
    train.run()
