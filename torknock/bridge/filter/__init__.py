"""A gate without any privilege: two listening sockets, and a program that chooses between them."""
