from avmsnet_jax.commands import prepare

if __name__ == "__main__":
    prepare.run()
