"""A model taken elsewhere: GGUF and safetensors, each read back by its reader before it is kept."""
