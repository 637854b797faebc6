"""A gate without any privilege."""
