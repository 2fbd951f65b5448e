"""A folder of images becomes a configuration."""
