"""What networks are made of: layers, transformers and quantizers that families share."""
