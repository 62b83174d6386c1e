"""A model folder of any maker: looked at before it is trusted, with its adapters, loaded with its tokenizer."""
