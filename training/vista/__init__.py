"""Vista: a procedural, captioned, animated world to train on."""
