from avmsnet_jax.commands import convert

if __name__ == "__main__":
    convert.run()
